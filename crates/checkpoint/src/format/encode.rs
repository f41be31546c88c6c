//! Writes the body: memories, globals, tables, frames, host state.

use crate::{Checkpoint, Delta, Frame, MemoryChanges, MemoryImage, Page, Stop, TableImage, Value};

/// A page with its index.
const PAGE_BYTES: usize = 8 + Page::BYTES;
/// For globals, tables and frames, as most guests have them.
const ROOM_BYTES: usize = 64 << 10;

pub(super) fn body(checkpoint: &Checkpoint) -> Vec<u8> {
    let pages: usize = checkpoint.memories.iter().map(|memory| memory.pages.len()).sum();
    let mut body = Vec::with_capacity(pages * PAGE_BYTES + checkpoint.host.len() + ROOM_BYTES);
    list(&checkpoint.memories, &mut body, memory);
    state(&checkpoint.globals, &checkpoint.tables, &checkpoint.frames, &mut body);
    bytes(&checkpoint.host, &mut body);
    body
}

pub(super) fn delta_body(delta: &Delta) -> Vec<u8> {
    let mut body = Vec::new();
    list(&delta.memories, &mut body, changes);
    state(&delta.globals, &delta.tables, &delta.frames, &mut body);
    bytes(&delta.host, &mut body);
    body
}

fn state(globals: &[Value], tables: &[TableImage], frames: &[Frame], body: &mut Vec<u8>) {
    list(globals, body, |&global, body| value(global, body));
    list(tables, body, |table, body| {
        list(&table.elements, body, |&element, body| value(element, body));
    });
    list(frames, body, frame);
}

fn bytes(bytes: &[u8], body: &mut Vec<u8>) {
    body.extend_from_slice(&(bytes.len() as u64).to_le_bytes());
    body.extend_from_slice(bytes);
}

fn list<T>(items: &[T], body: &mut Vec<u8>, mut write: impl FnMut(&T, &mut Vec<u8>)) {
    body.extend_from_slice(&(items.len() as u64).to_le_bytes());
    for item in items {
        write(item, body);
    }
}

fn memory(image: &MemoryImage, body: &mut Vec<u8>) {
    body.extend_from_slice(&image.size_pages.to_le_bytes());
    list(&image.pages, body, page);
}

fn changes(changes: &MemoryChanges, body: &mut Vec<u8>) {
    body.extend_from_slice(&changes.size_pages.to_le_bytes());
    list(&changes.zeroed, body, |index, body| {
        body.extend_from_slice(&index.to_le_bytes());
    });
    list(&changes.pages, body, page);
}

fn page(page: &Page, body: &mut Vec<u8>) {
    body.extend_from_slice(&page.index.to_le_bytes());
    body.extend_from_slice(&page.bytes);
}

fn frame(frame: &Frame, body: &mut Vec<u8>) {
    body.extend_from_slice(&frame.site.function.to_le_bytes());
    body.extend_from_slice(&frame.site.place.to_le_bytes());
    body.push(match frame.site.stop {
        Stop::Here => 0,
        Stop::Inside => 1,
    });
    list(&frame.values, body, |&saved, body| value(saved, body));
}

fn value(value: Value, body: &mut Vec<u8>) {
    match value {
        Value::I32(bits) => tagged(0, &bits.to_le_bytes(), body),
        Value::I64(bits) => tagged(1, &bits.to_le_bytes(), body),
        Value::F32(bits) => tagged(2, &bits.to_le_bytes(), body),
        Value::F64(bits) => tagged(3, &bits.to_le_bytes(), body),
        Value::V128(bits) => tagged(4, &bits.to_le_bytes(), body),
        Value::Function(None) => tagged(5, &[], body),
        Value::Function(Some(index)) => tagged(6, &index.to_le_bytes(), body),
        Value::Extern(None) => tagged(7, &[], body),
        Value::Extern(Some(handle)) => tagged(8, &handle.to_le_bytes(), body),
    }
}

fn tagged(tag: u8, bytes: &[u8], body: &mut Vec<u8>) {
    body.push(tag);
    body.extend_from_slice(bytes);
}
