//! Takes the state of a stopped guest.

use bytes::Bytes;
use wasmtime::{AsContext, AsContextMut, Memory};

use super::guest::memory;
use super::references::Functions;
use super::{CaptureError, Guest, Prepared, Tracker};
use crate::format::{self, Content, Image, SigningKey};
use crate::frame::{BASE, HEADER_BYTES, TOP};
use crate::pieces::{self, PIECE_BYTES};
use crate::state::Saved;
use crate::{
    Checkpoint, Delta, Frame, Layout, MemoryChanges, MemoryImage, Page, Site, Stop, TableImage, Value, ValueType, names,
};

/// A checkpoint as signed bytes.
pub struct Written {
    pub bytes: Bytes,
    /// How many pages it has.
    pub pages: usize,
}

/// A guest's state besides its memories.
struct State {
    globals: Vec<Value>,
    tables: Vec<TableImage>,
    frames: Vec<Frame>,
}

impl Prepared {
    /// The checkpoint of a guest that has stopped; `host` is what the host keeps for it.
    pub fn capture(
        &self,
        guest: &Guest,
        mut store: impl AsContextMut,
        host: Vec<u8>,
    ) -> Result<Checkpoint, CaptureError> {
        let State {
            globals,
            tables,
            frames,
        } = self.state(guest, &mut store)?;
        let mut memories = Vec::new();
        for index in 0..self.plan.memories() {
            let memory = memory(&guest.instance, &mut store, &names::memory(index));
            memories.push(image(memory, &mut store));
        }
        Ok(Checkpoint {
            identity: self.plan.identity(),
            memories,
            globals,
            tables,
            frames,
            host,
        })
    }

    /// As [`Prepared::capture`], but as signed bytes at once, to which the pages go without a stop on the way.
    pub fn capture_written(
        &self,
        guest: &Guest,
        mut store: impl AsContextMut,
        host: &[u8],
        key: &SigningKey,
    ) -> Result<Written, CaptureError> {
        let State {
            globals,
            tables,
            frames,
        } = self.state(guest, &mut store)?;
        let memories = 0..self.plan.memories();
        let memories: Vec<Memory> = memories
            .map(|index| memory(&guest.instance, &mut store, &names::memory(index)))
            .collect();
        let context = store.as_context();
        let images = memories.iter().map(|memory| Image {
            size_pages: memory.size(&context),
            zeroed: None,
            pages: pages(memory.data(&context), |index, bytes| (index, bytes)),
        });
        let content = Content {
            memories: images.collect(),
            globals: &globals,
            tables: &tables,
            frames: &frames,
            host,
        };
        Ok(Written {
            pages: content.memories.iter().map(|image| image.pages.len()).sum(),
            bytes: format::write(self.plan.identity(), &content, key),
        })
    }

    /// What changed since `tracker` last saw the guest's memories, as a delta to its base.
    ///
    /// Afterwards the tracker knows these memories, and its base has to become the mark of the written delta. If the
    /// delta is not kept, the next capture has to be a whole one.
    pub fn capture_changes(
        &self,
        guest: &Guest,
        mut store: impl AsContextMut,
        host: Vec<u8>,
        tracker: &mut Tracker,
    ) -> Result<Delta, CaptureError> {
        let State {
            globals,
            tables,
            frames,
        } = self.state(guest, &mut store)?;
        let mut memories = Vec::new();
        for index in 0..self.plan.memories() {
            let memory = memory(&guest.instance, &mut store, &names::memory(index));
            let size_pages = memory.size(&store);
            let (zeroed, pages) = tracker.changes(index as usize, memory.data(&store));
            memories.push(MemoryChanges {
                size_pages,
                zeroed,
                pages,
            });
        }
        Ok(Delta {
            identity: self.plan.identity(),
            base: tracker.base,
            memories,
            globals,
            tables,
            frames,
            host,
        })
    }

    /// Everything but the memories.
    fn state(&self, guest: &Guest, mut store: impl AsContextMut) -> Result<State, CaptureError> {
        // Headers of a guest that is about to go on hold slots already.
        if !guest.is_stopped(&store) || guest.outermost.is_some() {
            return Err(CaptureError::NotStopped);
        }
        let references = &self.plan.analysis.references;
        let functions = Functions::of(&mut store, guest.functions, references);
        let frames = self.frames(guest, &mut store, &functions)?;
        let mut globals = Vec::new();
        for Saved { index, .. } in self.plan.saved_globals() {
            let global = guest.instance.get_global(&mut store, &names::global(index));
            let value = global.expect("every global is exported").get(&mut store);
            globals.push(functions.save_value(&mut store, value)?);
        }
        let mut tables = Vec::new();
        for Saved { index, .. } in self.plan.saved_tables() {
            let table = guest.instance.get_table(&mut store, &names::table(index));
            let table = table.expect("every table is exported");
            let mut elements = Vec::new();
            for place in 0..table.size(&store) {
                let reference = table.get(&mut store, place).expect("the place lies in the table");
                elements.push(functions.save(&mut store, reference)?);
            }
            tables.push(TableImage { elements });
        }
        Ok(State {
            globals,
            tables,
            frames,
        })
    }

    /// Reads the frames from the last one written, since their headers lie at their ends.
    fn frames(
        &self,
        guest: &Guest,
        mut store: impl AsContextMut,
        functions: &Functions,
    ) -> Result<Vec<Frame>, CaptureError> {
        let mut frames = Vec::new();
        let mut end = guest.word(&store, TOP);
        while end > BASE {
            let SavedFrame { site, layout, begin } = self.frame_that_ends_at(guest, &store, end)?;
            let values = values(guest, &mut store, layout, begin, functions)?;
            frames.push(Frame { site, values });
            end = begin;
        }
        frames.reverse();
        Ok(frames)
    }

    /// What the header of a frame in the save memory says.
    pub(super) fn frame_that_ends_at(
        &self,
        guest: &Guest,
        store: impl AsContext,
        end: u32,
    ) -> Result<SavedFrame<'_>, CaptureError> {
        let header = end.checked_sub(HEADER_BYTES).ok_or(CaptureError::Frames)?;
        let number = guest.word(&store, header);
        let (function, place) = self.plan.place_of(number).ok_or(CaptureError::Frames)?;
        let stop = match guest.word(&store, header + 4) {
            0 => Stop::Here,
            _ => Stop::Inside,
        };
        let layout = self.plan.layout(function, place).ok_or(CaptureError::Frames)?;
        Ok(SavedFrame {
            site: Site { function, place, stop },
            layout,
            begin: end.checked_sub(layout.frame_bytes()).ok_or(CaptureError::Frames)?,
        })
    }
}

/// A frame in the save memory.
pub(super) struct SavedFrame<'p> {
    pub site: Site,
    pub layout: &'p Layout,
    pub begin: u32,
}

fn values(
    guest: &Guest,
    mut store: impl AsContextMut,
    layout: &Layout,
    begin: u32,
    functions: &Functions,
) -> Result<Vec<Value>, CaptureError> {
    let mut values = Vec::with_capacity(layout.values.len());
    for (&ty, &offset) in layout.values.iter().zip(&layout.offsets) {
        let bytes = ty.saved_bytes() as usize;
        let mut bits = [0; 16];
        guest
            .frames
            .read(&store, (begin + offset) as usize, &mut bits[..bytes])
            .map_err(|_| CaptureError::Frames)?;
        let bits = u128::from_le_bytes(bits);
        values.push(match ty {
            ValueType::I32 => Value::I32(bits as u32),
            ValueType::I64 => Value::I64(bits as u64),
            ValueType::F32 => Value::F32(bits as u32),
            ValueType::F64 => Value::F64(bits as u64),
            ValueType::V128 => Value::V128(bits),
            ValueType::Function | ValueType::Extern => {
                let table = if ty == ValueType::Function {
                    guest.functions
                } else {
                    guest.externs.ok_or(CaptureError::Frames)?
                };
                let reference = table.get(&mut store, bits as u64);
                functions.save(&mut store, reference.ok_or(CaptureError::ReferencesLost)?)?
            }
        });
    }
    Ok(values)
}

fn image(memory: Memory, store: impl AsContextMut) -> MemoryImage {
    let context = store.as_context();
    MemoryImage {
        size_pages: memory.size(&context),
        pages: pages(memory.data(&context), |index, bytes| Page {
            index,
            bytes: Bytes::copy_from_slice(bytes),
        }),
    }
}

/// What becomes of the pages of a memory that are not all zero.
fn pages<'a, P: Clone + Send>(memory: &'a [u8], page: impl Fn(u64, &'a [u8]) -> P + Sync) -> Vec<P> {
    const ZERO: [u8; Page::BYTES] = [0; Page::BYTES];
    let of_piece = |number: usize, piece: &'a [u8]| {
        let pages = (pieces::first_page(number)..).zip(piece.chunks(Page::BYTES));
        let pages = pages.filter(|(_, bytes)| *bytes != ZERO.as_slice());
        pages.map(|(index, bytes)| page(index, bytes)).collect::<Vec<_>>()
    };
    pieces::map(memory.chunks(PIECE_BYTES).collect(), of_piece).concat()
}
