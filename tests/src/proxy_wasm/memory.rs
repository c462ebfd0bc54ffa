//! The filter's memory, and header maps in the ABI's form.

use wasmtime::{Caller, Extern, Memory};

use super::OK;
use super::world::World;

fn memory(caller: &mut Caller<'_, World>) -> Memory {
    match caller.get_export("memory") {
        Some(Extern::Memory(memory)) => memory,
        _ => panic!("the filter has no memory"),
    }
}

pub(super) fn read(caller: &mut Caller<'_, World>, start: u32, length: u32) -> Vec<u8> {
    let mut bytes = vec![0; length as usize];
    memory(caller)
        .read(caller, start as usize, &mut bytes)
        .expect("inside of the memory");
    bytes
}

pub(super) fn text(caller: &mut Caller<'_, World>, start: u32, length: u32) -> String {
    String::from_utf8(read(caller, start, length)).expect("text")
}

pub(super) fn put(caller: &mut Caller<'_, World>, place: u32, bytes: &[u8]) {
    memory(caller)
        .write(caller, place as usize, bytes)
        .expect("inside of the memory");
}

/// Gives bytes as Envoy does: into memory that the filter allocates.
pub(super) fn give(caller: &mut Caller<'_, World>, bytes: &[u8], start: u32, length: u32) -> u32 {
    let Some(Extern::Func(allocate)) = caller.get_export("proxy_on_memory_allocate") else {
        panic!("the filter allocates nothing");
    };
    let allocate = allocate
        .typed::<u32, u32>(&mut *caller)
        .expect("its type is known");
    let size = u32::try_from(bytes.len()).expect("short");
    caller.data_mut().entries += 1;
    let place = allocate.call(&mut *caller, size).expect("memory");
    put(caller, place, bytes);
    put(caller, start, &place.to_le_bytes());
    put(caller, length, &size.to_le_bytes());
    OK
}

/// A header map in the ABI's form.
pub(super) fn header_map(pairs: &[(Vec<u8>, Vec<u8>)]) -> Vec<u8> {
    let size = |length: usize| u32::try_from(length).expect("short").to_le_bytes();
    let mut map = size(pairs.len()).to_vec();
    for (name, value) in pairs {
        map.extend_from_slice(&size(name.len()));
        map.extend_from_slice(&size(value.len()));
    }
    for part in pairs.iter().flat_map(|(name, value)| [name, value]) {
        map.extend_from_slice(part);
        map.push(0);
    }
    map
}

pub(super) fn pairs(map: &[u8]) -> Vec<(String, String)> {
    let number = |place: usize| {
        let bytes = map[place..place + 4].try_into().expect("four bytes");
        u32::from_le_bytes(bytes) as usize
    };
    let count = number(0);
    let mut place = 4 + count * 8;
    let mut part = |length: usize| {
        let text = String::from_utf8(map[place..place + length].to_vec()).expect("text");
        place += length + 1;
        text
    };
    (0..count)
        .map(|index| {
            let name = part(number(4 + index * 8));
            (name, part(number(8 + index * 8)))
        })
        .collect()
}
