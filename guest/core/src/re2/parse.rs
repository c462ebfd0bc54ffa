//! The syntax of RE2, read into the library's intermediate form.
//!
//! A stack of groups instead of recursion, so that nesting costs no stack.

use regex_syntax::hir::{Hir, Look, Repetition};

use super::class;
use super::error::{Error, Reason};
use super::escape;
use super::set::{LAST_BYTE, Set};

/// How many levels groups and repetitions may nest.
const MAX_LEVELS: u32 = 100;
/// The largest repetition, alone and multiplied with those around it.
const MAX_REPETITION: u32 = 1_000;
/// How many ranges all classes may have together.
const MAX_RANGES: usize = 100_000;

/// Reads a whole pattern. RE2 takes each of its bytes for a character.
pub(super) fn parse(text: &str) -> Result<Hir, Error> {
    let text: String = text.bytes().map(char::from).collect();
    let text = text.as_str();
    let cursor = Cursor { text, rest: text };
    let mut parser = Parser {
        cursor,
        flags: Flags::default(),
        group: Group::opened(cursor, Flags::default()),
        outer: Vec::new(),
        work: Work::default(),
    };
    parser.run()
}

/// A place in the pattern, whose characters are the bytes that were written.
#[derive(Clone, Copy)]
pub(super) struct Cursor<'p> {
    text: &'p str,
    rest: &'p str,
}

impl<'p> Cursor<'p> {
    pub(super) const fn rest(&self) -> &'p str {
        self.rest
    }

    pub(super) fn peek(&self) -> Option<char> {
        self.rest.chars().next()
    }

    pub(super) fn next(&mut self) -> Option<char> {
        let mut characters = self.rest.chars();
        let next = characters.next();
        self.rest = characters.as_str();
        next
    }

    pub(super) fn starts_with(&self, text: &str) -> bool {
        self.rest.starts_with(text)
    }

    /// Whether two bytes or more are left.
    pub(super) const fn has_two(&self) -> bool {
        self.rest.len() >= 2
    }

    /// Goes past `text`, if it stands here.
    pub(super) fn eat(&mut self, text: &str) -> bool {
        match self.rest.strip_prefix(text) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    /// The text from here to a later place, as it was written.
    pub(super) fn text_to(&self, end: &Self) -> String {
        written(self.rest.strip_suffix(end.rest).unwrap_or_default())
    }

    /// What is wrong here.
    pub(super) fn error(&self, reason: Reason) -> Error {
        let before = self.text.strip_suffix(self.rest).unwrap_or_default();
        Error {
            position: before.chars().count(),
            reason,
        }
    }
}

/// A part of the pattern as it was written.
pub(super) fn written(text: &str) -> String {
    let bytes: Vec<u8> = text
        .chars()
        .filter_map(|character| u8::try_from(u32::from(character)).ok())
        .collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// What classes have cost so far.
#[derive(Default)]
pub(super) struct Work {
    ranges: usize,
}

impl Work {
    /// Adds a class to another, with the other cases of its ASCII letters if `fold`: when
    /// bytes are characters, RE2 does no more.
    pub(super) fn add(
        &mut self,
        to: &mut Set,
        mut class: Set,
        fold: bool,
        cursor: &Cursor<'_>,
    ) -> Result<(), Error> {
        if fold {
            class.fold_ascii();
        }
        self.count(&class, cursor)?;
        to.union(&class);
        Ok(())
    }

    /// Counts a class that is kept.
    pub(super) fn count(&mut self, class: &Set, cursor: &Cursor<'_>) -> Result<(), Error> {
        self.ranges = self.ranges.saturating_add(class.len());
        if self.ranges > MAX_RANGES {
            return Err(cursor.error(Reason::ClassesTooLarge));
        }
        Ok(())
    }
}

/// `(?imsU)`; which match is preferred (`U`) says nothing about whether there is one.
#[derive(Clone, Copy, Default)]
struct Flags {
    fold: bool,
    lines: bool,
    dot_all: bool,
}

/// A part of the pattern.
struct Node {
    hir: Hir,
    /// How deep it nests.
    levels: u32,
    /// The largest product of repetitions within each other.
    repetition: u32,
}

impl Node {
    const fn leaf(hir: Hir) -> Self {
        Self {
            hir,
            levels: 0,
            repetition: 1,
        }
    }

    /// Puts parts together.
    fn of(parts: Vec<Self>, join: impl FnOnce(Vec<Hir>) -> Hir) -> Self {
        let levels = parts.iter().map(|part| part.levels).max();
        let repetition = parts.iter().map(|part| part.repetition).max();
        Self {
            hir: join(parts.into_iter().map(|part| part.hir).collect()),
            levels: levels.unwrap_or(0),
            repetition: repetition.unwrap_or(1),
        }
    }
}

/// A group that is open, or the whole pattern.
struct Group<'p> {
    opened: Cursor<'p>,
    /// The flags that hold again after it.
    flags: Flags,
    alternatives: Vec<Node>,
    parts: Vec<Node>,
}

impl<'p> Group<'p> {
    const fn opened(opened: Cursor<'p>, flags: Flags) -> Self {
        Self {
            opened,
            flags,
            alternatives: Vec::new(),
            parts: Vec::new(),
        }
    }

    fn end_alternative(&mut self) {
        let parts = std::mem::take(&mut self.parts);
        self.alternatives.push(Node::of(parts, Hir::concat));
    }

    fn close(mut self) -> Node {
        self.end_alternative();
        Node::of(self.alternatives, Hir::alternation)
    }
}

struct Parser<'p> {
    cursor: Cursor<'p>,
    flags: Flags,
    group: Group<'p>,
    outer: Vec<Group<'p>>,
    work: Work,
}

impl<'p> Parser<'p> {
    fn run(&mut self) -> Result<Hir, Error> {
        let mut after_repetition = false;
        while let Some(next) = self.cursor.peek() {
            let start = self.cursor;
            let repetition = self.repetition(next)?;
            if let Some((min, max)) = repetition {
                // A repetition of a repetition means other things elsewhere.
                if after_repetition {
                    return Err(start.error(Reason::RepeatedRepetition));
                }
                self.repeat(start, min, max)?;
            } else {
                self.other(next)?;
            }
            after_repetition = repetition.is_some();
        }
        if self.outer.is_empty() {
            let empty = Group::opened(self.cursor, self.flags);
            return Ok(std::mem::replace(&mut self.group, empty).close().hir);
        }
        Err(self.group.opened.error(Reason::MissingParenthesis))
    }

    /// Reads a repetition and its `?`, if one stands here.
    fn repetition(&mut self, next: char) -> Result<Option<(u32, Option<u32>)>, Error> {
        let bounds = match next {
            '*' => Some((0, None)),
            '+' => Some((1, None)),
            '?' => Some((0, Some(1))),
            '{' => return self.bounds(),
            _ => None,
        };
        if bounds.is_some() {
            self.cursor.next();
            self.cursor.eat("?");
        }
        Ok(bounds)
    }

    /// Reads `{n}`, `{n,}` and `{n,m}`; anything else is a brace like other characters.
    fn bounds(&mut self) -> Result<Option<(u32, Option<u32>)>, Error> {
        let start = self.cursor;
        let mut cursor = self.cursor;
        cursor.next();
        let Some(min) = number(&mut cursor) else {
            return Ok(None);
        };
        let max = if !cursor.eat(",") {
            Some(min)
        } else if cursor.starts_with("}") {
            None
        } else {
            let Some(max) = number(&mut cursor) else {
                return Ok(None);
            };
            Some(max)
        };
        if !cursor.eat("}") {
            return Ok(None);
        }
        if min > MAX_REPETITION || max.is_some_and(|max| max > MAX_REPETITION || max < min) {
            return Err(start.error(Reason::RepetitionSize));
        }
        cursor.eat("?");
        self.cursor = cursor;
        Ok(Some((min, max)))
    }

    fn repeat(&mut self, start: Cursor<'p>, min: u32, max: Option<u32>) -> Result<(), Error> {
        let Some(node) = self.group.parts.pop() else {
            return Err(start.error(Reason::NothingToRepeat));
        };
        let times = max.unwrap_or(min).max(1);
        let repetition = node.repetition.saturating_mul(times);
        if repetition > MAX_REPETITION {
            return Err(start.error(Reason::RepetitionSize));
        }
        let hir = Hir::repetition(Repetition {
            min,
            max,
            greedy: true,
            sub: Box::new(node.hir),
        });
        let levels = deeper(node.levels, start)?;
        self.group.parts.push(Node {
            hir,
            levels,
            repetition,
        });
        Ok(())
    }

    fn other(&mut self, next: char) -> Result<(), Error> {
        match next {
            '(' => return self.open(),
            ')' => return self.close(),
            '|' => {
                self.cursor.next();
                self.group.end_alternative();
            }
            '^' => {
                self.cursor.next();
                self.look(if self.flags.lines {
                    Look::StartLF
                } else {
                    Look::Start
                });
            }
            '$' => {
                self.cursor.next();
                self.look(if self.flags.lines {
                    Look::EndLF
                } else {
                    Look::End
                });
            }
            '.' => {
                self.cursor.next();
                let mut set = Set::range(0x0a, 0x0a);
                if self.flags.dot_all {
                    set = Set::default();
                }
                set.negate();
                self.push(set.into_hir());
            }
            '[' => {
                let set = class::bracketed(&mut self.cursor, self.flags.fold, &mut self.work)?;
                self.push(set.into_hir());
            }
            '\\' => return self.escape(),
            character => {
                self.cursor.next();
                return self.literal(u32::from(character));
            }
        }
        Ok(())
    }

    fn push(&mut self, hir: Hir) {
        self.group.parts.push(Node::leaf(hir));
    }

    fn look(&mut self, look: Look) {
        self.push(Hir::look(look));
    }

    fn literal(&mut self, character: u32) -> Result<(), Error> {
        let hir = match u8::try_from(character) {
            Ok(byte) if !self.flags.fold => Hir::literal([byte]),
            _ => {
                let mut set = Set::range(character, character);
                set.fold_ascii();
                set.into_hir()
            }
        };
        self.push(hir);
        Ok(())
    }

    fn escape(&mut self) -> Result<(), Error> {
        if self.cursor.eat("\\Q") {
            return self.quoted();
        }
        let looks = [
            ("\\A", Look::Start),
            ("\\z", Look::End),
            ("\\b", Look::WordAscii),
            ("\\B", Look::WordAsciiNegate),
        ];
        for (text, look) in looks {
            if self.cursor.eat(text) {
                self.look(look);
                return Ok(());
            }
        }
        if self.cursor.eat("\\C") {
            self.push(Set::range(0, LAST_BYTE).into_hir());
            return Ok(());
        }
        let fold = self.flags.fold;
        if let Some(set) = class::named(&mut self.cursor, fold, &mut self.work)? {
            self.push(set.into_hir());
            return Ok(());
        }
        let character = escape::character(&mut self.cursor)?;
        self.literal(character)
    }

    /// Everything up to `\E` or the end as it stands.
    fn quoted(&mut self) -> Result<(), Error> {
        while !self.cursor.eat("\\E") {
            match self.cursor.next() {
                Some(character) => self.literal(u32::from(character))?,
                None => break,
            }
        }
        Ok(())
    }

    fn open(&mut self) -> Result<(), Error> {
        let start = self.cursor;
        self.cursor.next();
        let mut flags = self.flags;
        if self.cursor.eat("?") {
            if self.cursor.eat("P<") || self.cursor.eat("<") {
                self.name(start)?;
            } else if !self.flags(start, &mut flags)? {
                self.flags = flags;
                return Ok(());
            }
        }
        if self.outer.len() >= usize::try_from(MAX_LEVELS).unwrap_or(usize::MAX) {
            return Err(start.error(Reason::TooDeep { limit: MAX_LEVELS }));
        }
        let group = Group::opened(start, self.flags);
        self.outer.push(std::mem::replace(&mut self.group, group));
        self.flags = flags;
        Ok(())
    }

    /// Reads flags; whether they open a group of their own.
    fn flags(&mut self, start: Cursor<'p>, flags: &mut Flags) -> Result<bool, Error> {
        let mut is_set = true;
        let mut is_complete = true;
        loop {
            let next = self.cursor.next();
            match next {
                Some('i') => flags.fold = is_set,
                Some('m') => flags.lines = is_set,
                Some('s') => flags.dot_all = is_set,
                Some('U') => {}
                Some('-') if is_set => {
                    is_set = false;
                    is_complete = false;
                    continue;
                }
                Some(':' | ')') if is_complete => return Ok(next == Some(':')),
                _ => {
                    let text = start.text_to(&self.cursor);
                    return Err(start.error(Reason::UnknownGroup(text)));
                }
            }
            is_complete = true;
        }
    }

    /// Reads the name of a group, which decides nothing.
    fn name(&mut self, start: Cursor<'p>) -> Result<(), Error> {
        let Some((name, _)) = self.cursor.rest().split_once('>') else {
            let text = written(start.rest());
            return Err(start.error(Reason::GroupName(text)));
        };
        let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
        if name.is_empty() || !name.chars().all(is_word) {
            return Err(start.error(Reason::GroupName(written(name))));
        }
        self.cursor.eat(name);
        self.cursor.eat(">");
        Ok(())
    }

    fn close(&mut self) -> Result<(), Error> {
        let Some(outer) = self.outer.pop() else {
            return Err(self.cursor.error(Reason::UnexpectedParenthesis));
        };
        self.cursor.next();
        let inner = std::mem::replace(&mut self.group, outer);
        self.flags = inner.flags;
        let opened = inner.opened;
        let mut node = inner.close();
        node.levels = deeper(node.levels, opened)?;
        self.group.parts.push(node);
        Ok(())
    }
}

/// One level more.
fn deeper(levels: u32, at: Cursor<'_>) -> Result<u32, Error> {
    if levels >= MAX_LEVELS {
        return Err(at.error(Reason::TooDeep { limit: MAX_LEVELS }));
    }
    Ok(levels.saturating_add(1))
}

/// A decimal number without needless zeros; those beyond any limit become the largest.
fn number(cursor: &mut Cursor<'_>) -> Option<u32> {
    let digits = cursor
        .rest()
        .split(|c: char| !c.is_ascii_digit())
        .next()
        .filter(|digits| !digits.is_empty())?;
    if digits.len() > 1 && digits.starts_with('0') {
        return None;
    }
    cursor.eat(digits);
    Some(digits.parse().unwrap_or(u32::MAX))
}
