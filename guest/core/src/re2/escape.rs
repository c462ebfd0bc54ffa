//! Escapes that stand for one character.

use super::error::{Error, Reason};
use super::parse::Cursor;
use super::set::LAST_BYTE;

/// Reads the escape at the cursor, which stands on a backslash.
pub(super) fn character(cursor: &mut Cursor<'_>) -> Result<u32, Error> {
    let start = *cursor;
    cursor.next();
    let Some(escaped) = cursor.next() else {
        return Err(start.error(Reason::TrailingBackslash));
    };
    let known = match escaped {
        '1'..='7' if !cursor.peek().is_some_and(|next| next.is_digit(8)) => None,
        '0'..='7' => Some(octal(escaped, cursor)).filter(|code| *code <= LAST_BYTE),
        'x' => hexadecimal(cursor),
        'n' => Some(0x0a),
        'r' => Some(0x0d),
        't' => Some(0x09),
        'a' => Some(0x07),
        'f' => Some(0x0c),
        'v' => Some(0x0b),
        sign if sign.is_ascii() && !sign.is_ascii_alphanumeric() => Some(u32::from(sign)),
        _ => None,
    };
    known.ok_or_else(|| {
        let text = start.text_to(cursor);
        start.error(Reason::UnknownEscape(text))
    })
}

/// Up to three octal digits.
fn octal(first: char, cursor: &mut Cursor<'_>) -> u32 {
    let mut code = first.to_digit(8).unwrap_or(0);
    for _ in 0..2 {
        let Some(digit) = cursor.peek().and_then(|next| next.to_digit(8)) else {
            break;
        };
        cursor.next();
        code = code.saturating_mul(8).saturating_add(digit);
    }
    code
}

/// Two hexadecimal digits, or any number of them in braces.
fn hexadecimal(cursor: &mut Cursor<'_>) -> Option<u32> {
    let first = cursor.next()?;
    if first != '{' {
        let second = cursor.next()?.to_digit(16)?;
        return Some(
            first
                .to_digit(16)?
                .saturating_mul(16)
                .saturating_add(second),
        );
    }
    let mut code = None;
    loop {
        match cursor.next()? {
            '}' => return code,
            digit => {
                let digit = digit.to_digit(16)?;
                let next = code.unwrap_or(0_u32).checked_mul(16)?.checked_add(digit)?;
                code = Some(next).filter(|code| *code <= LAST_BYTE);
                code?;
            }
        }
    }
}
