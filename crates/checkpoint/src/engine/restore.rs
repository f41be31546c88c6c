//! Makes a guest that goes on where a checkpoint was taken.

use wasmtime::{AsContextMut, Linker, Memory, Ref, Store};

use super::guest::memory;
use super::references::Remade;
use super::{Guest, Prepared, RestoreError};
use crate::frame::{BASE, CURSOR, HEADER_BYTES};
use crate::pieces::{self, PIECE_BYTES};
use crate::{Checkpoint, MemoryImage, Page, Value, names};

impl Prepared {
    /// A new instance in the state of the checkpoint; [`Guest::resume`] goes on with its call.
    ///
    /// The checkpoint is checked against the plan first. What it says of the host is the caller's to restore.
    pub fn restore<T: 'static>(
        &self,
        store: &mut Store<T>,
        linker: &Linker<T>,
        checkpoint: &Checkpoint,
    ) -> Result<Guest, RestoreError> {
        self.plan.check(checkpoint)?;
        let mut guest = Guest::new(self, store, linker)?;
        let remade = Remade {
            table: guest.functions,
            references: &self.plan.analysis.references,
        };
        for (index, image) in (0..).zip(&checkpoint.memories) {
            let memory = memory(&guest.instance, &mut *store, &names::memory(index));
            fill_memory(memory, &mut *store, image)?;
        }
        self.fill_globals_and_tables(&guest, &mut *store, &remade, checkpoint)?;
        let settle = guest.instance.get_typed_func::<(), ()>(&mut *store, names::SETTLE)?;
        settle.call(&mut *store, ())?;
        let mut bytes = Vec::new();
        for frame in &checkpoint.frames {
            let layout = self.plan.layout(frame.site.function, frame.site.place);
            let layout = layout.expect("the checkpoint was checked");
            let begin = bytes.len();
            bytes.resize(begin + (layout.frame_bytes() - HEADER_BYTES) as usize, 0);
            for (&value, &offset) in frame.values.iter().zip(&layout.offsets) {
                save(
                    &guest,
                    &mut *store,
                    &remade,
                    value,
                    &mut bytes[begin + offset as usize..],
                )?;
            }
            let linked = self.linked(&mut guest, &mut *store, frame.site)?;
            bytes.extend_from_slice(&linked.slot.to_le_bytes());
            bytes.extend_from_slice(&[0; 4]);
            guest.outermost = Some(linked.function);
        }
        guest
            .frames
            .write(&mut *store, BASE as usize, &bytes)
            .map_err(wasmtime::Error::from)?;
        guest.set_word(&mut *store, CURSOR, BASE + bytes.len() as u32);
        Ok(guest)
    }

    fn fill_globals_and_tables(
        &self,
        guest: &Guest,
        mut store: impl AsContextMut,
        remade: &Remade<'_>,
        checkpoint: &Checkpoint,
    ) -> wasmtime::Result<()> {
        for (saved, &value) in self.plan.saved_globals().iter().zip(&checkpoint.globals) {
            let global = guest.instance.get_global(&mut store, &names::global(saved.index));
            let value = remade.value(&mut store, value)?;
            global.expect("every global is exported").set(&mut store, value)?;
        }
        for (saved, image) in self.plan.saved_tables().iter().zip(&checkpoint.tables) {
            let table = guest.instance.get_table(&mut store, &names::table(saved.index));
            let table = table.expect("every table is exported");
            let missing = image.elements.len() as u64 - table.size(&store);
            let null = match saved.ty {
                crate::ValueType::Extern => Ref::Extern(None),
                _ => Ref::Func(None),
            };
            table.grow(&mut store, missing, null)?;
            for (place, &value) in (0..).zip(&image.elements) {
                let reference = remade.reference(&mut store, value)?;
                let reference = reference.expect("the checkpoint was checked: tables hold references");
                table.set(&mut store, place, reference)?;
            }
        }
        Ok(())
    }
}

/// Writes a value to the beginning of `bytes` as frames hold it: a reference as its place in a table.
fn save(
    guest: &Guest,
    mut store: impl AsContextMut,
    remade: &Remade<'_>,
    value: Value,
    bytes: &mut [u8],
) -> wasmtime::Result<()> {
    match value {
        Value::I32(bits) | Value::F32(bits) => put(bytes, &bits.to_le_bytes()),
        Value::I64(bits) | Value::F64(bits) => put(bytes, &bits.to_le_bytes()),
        Value::V128(bits) => put(bytes, &bits.to_le_bytes()),
        Value::Function(_) | Value::Extern(_) => {
            let reference = remade.reference(&mut store, value)?.expect("it is a reference");
            let table = match value {
                Value::Extern(_) => guest
                    .externs
                    .expect("a layout with external references has their table"),
                _ => guest.functions,
            };
            let place = table.grow(&mut store, 1, reference)?;
            put(bytes, &(place as u32).to_le_bytes());
        }
    }
    Ok(())
}

fn put(bytes: &mut [u8], value: &[u8]) {
    bytes[..value.len()].copy_from_slice(value);
}

/// Grows a new memory and gives it the pages of the image; what data segments wrote elsewhere is cleared.
fn fill_memory(memory: Memory, mut store: impl AsContextMut, image: &MemoryImage) -> wasmtime::Result<()> {
    let missing = image.size_pages - memory.size(&store);
    if missing > 0 {
        memory.grow(&mut store, missing)?;
    }
    let mut context = store.as_context_mut();
    let data = memory.data_mut(&mut context);
    pieces::map(data.chunks_mut(PIECE_BYTES).collect(), |number, piece| {
        let first = pieces::first_page(number);
        let before = image.pages.partition_point(|page| page.index < first);
        let mut wanted = image.pages[before..].iter().peekable();
        for (index, bytes) in (first..).zip(piece.chunks_mut(Page::BYTES)) {
            match wanted.next_if(|page| page.index == index) {
                Some(page) => bytes.copy_from_slice(&page.bytes),
                None if bytes.iter().any(|&byte| byte != 0) => bytes.fill(0),
                None => {}
            }
        }
    });
    Ok(())
}
