//! A WebAssembly module with a trap put into it, so that tests see what a failed VM leads to.

/// The module with an `unreachable` at the beginning of the function that it exports as `name`.
///
/// # Panics
/// When there is no such function.
#[must_use]
pub fn trap_in(module: &[u8], name: &str) -> Vec<u8> {
    let (header, rest) = module.split_at(8);
    let mut sections = Vec::new();
    let mut at = Reader(rest);
    while !at.0.is_empty() {
        let id = at.byte();
        let size = at.number();
        sections.push((id, at.take(size).to_vec()));
    }
    let section = |id: u8| {
        let found = sections.iter().find(|(other, _)| *other == id);
        found.map_or(&[][..], |(_, bytes)| bytes)
    };
    let function = exported(section(7), name).expect("an exported function");
    let defined = function - imported_functions(section(2));
    let mut out = header.to_vec();
    for (id, bytes) in &sections {
        let bytes = if *id == 10 {
            with_trap(bytes, defined)
        } else {
            bytes.clone()
        };
        out.push(*id);
        number(bytes.len(), &mut out);
        out.extend_from_slice(&bytes);
    }
    out
}

/// The index of an exported function.
fn exported(section: &[u8], name: &str) -> Option<usize> {
    let mut at = Reader(section);
    let count = at.number();
    (0..count).find_map(|_| {
        let length = at.number();
        let found = at.take(length) == name.as_bytes();
        let (kind, index) = (at.byte(), at.number());
        (found && kind == 0).then_some(index)
    })
}

fn imported_functions(section: &[u8]) -> usize {
    let mut at = Reader(section);
    let count = at.number();
    for _ in 0..count {
        for _ in 0..2 {
            let length = at.number();
            at.take(length);
        }
        assert_eq!(at.byte(), 0, "only functions are imported");
        at.number();
    }
    count
}

fn with_trap(section: &[u8], wanted: usize) -> Vec<u8> {
    let mut at = Reader(section);
    let count = at.number();
    let mut out = Vec::new();
    number(count, &mut out);
    for index in 0..count {
        let size = at.number();
        let body = at.take(size);
        if index != wanted {
            number(size, &mut out);
            out.extend_from_slice(body);
            continue;
        }
        // The locals come first: how many groups, and of each how many and of which type.
        let mut locals = Reader(body);
        for _ in 0..locals.number() {
            locals.number();
            locals.byte();
        }
        let (locals, code) = body.split_at(body.len() - locals.0.len());
        number(size + 1, &mut out);
        out.extend_from_slice(locals);
        out.push(0);
        out.extend_from_slice(code);
    }
    out
}

/// Reads from the front.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, size: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(size);
        self.0 = rest;
        taken
    }

    fn byte(&mut self) -> u8 {
        self.take(1)[0]
    }

    /// LEB128.
    fn number(&mut self) -> usize {
        let (mut value, mut shift) = (0, 0);
        loop {
            let byte = self.byte();
            value |= usize::from(byte & 0x7f) << shift;
            shift += 7;
            if byte & 0x80 == 0 {
                return value;
            }
        }
    }
}

/// LEB128.
fn number(mut value: usize, out: &mut Vec<u8>) {
    loop {
        let low = u8::try_from(value & 0x7f).expect("seven bits");
        value >>= 7;
        out.push(if value == 0 { low } else { low | 0x80 });
        if value == 0 {
            return;
        }
    }
}
