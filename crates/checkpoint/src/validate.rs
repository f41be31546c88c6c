//! Whether a checkpoint fits a module: asked before anything of it is used.

use crate::state::Saved;
use crate::{Checkpoint, Frame, MemoryImage, Page, Place, Plan, Stop, Value, ValueType};

/// Pages of [`Page::BYTES`] in a WebAssembly page.
const PAGES_PER_WASM_PAGE: u64 = 64 * 1024 / Page::BYTES as u64;

/// Why a checkpoint cannot be resumed by a plan.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Mismatch {
    /// It was taken of another module.
    #[error("the checkpoint is of module `{found}`, this is module `{expected}`")]
    Module { expected: String, found: String },
    /// It was taken by another version of the pass or with other options.
    #[error("the checkpoint was taken by another version or with other options of the pass")]
    Pass,
    /// It has another number of something than the module.
    #[error("the checkpoint has {found} {what}, the module has {expected}")]
    Count {
        what: &'static str,
        expected: usize,
        found: usize,
    },
    /// A memory is smaller or larger than it can be, or its pages lie outside or out of order.
    #[error("memory {0} of the checkpoint does not fit the module's")]
    Memory(u32),
    /// A table is smaller or larger than it can be.
    #[error("table {0} of the checkpoint does not fit the module's")]
    Table(u32),
    /// A value has another type than its place, or refers to a function that no reference leads to.
    #[error("{0} of the checkpoint has a value that cannot be there")]
    Value(&'static str),
    /// A frame names a place that does not exist.
    #[error("frame {0} of the checkpoint names a place that the module does not have")]
    Site(usize),
    /// A frame cannot be called by the next one, or the innermost one waits for another.
    #[error("frame {0} of the checkpoint cannot have been called by the next one")]
    Chain(usize),
    /// There are more frames than the save memory holds.
    #[error("the checkpoint's frames do not fit the save memory")]
    FramesTooLarge,
}

impl Plan {
    /// Whether `checkpoint` can be resumed as a run of this module.
    ///
    /// A checkpoint that passes cannot make the engine do what the module could not: at worst, a forged one
    /// makes the guest compute nonsense inside its own sandbox. The handles of external references are numbers that
    /// the host gave: a forged checkpoint may name any, so a host looks up each one among those of the guest's owner
    /// and takes none for a proof.
    pub fn check(&self, checkpoint: &Checkpoint) -> Result<(), Mismatch> {
        let (own, other) = (self.identity(), checkpoint.identity);
        if own.module != other.module {
            return Err(Mismatch::Module {
                expected: own.module.to_string(),
                found: other.module.to_string(),
            });
        }
        if own != other {
            return Err(Mismatch::Pass);
        }
        self.check_memories(&checkpoint.memories)?;
        self.check_globals(&checkpoint.globals)?;
        self.check_tables(checkpoint)?;
        self.check_frames(&checkpoint.frames)
    }

    fn check_memories(&self, images: &[MemoryImage]) -> Result<(), Mismatch> {
        let memories = &self.analysis.outline.memories;
        count("memories", memories.len(), images.len())?;
        for (index, (image, ty)) in (0..).zip(images.iter().zip(memories)) {
            let largest = ty.maximum.unwrap_or(u64::MAX / PAGES_PER_WASM_PAGE);
            let size_fits = (ty.initial..=largest).contains(&image.size_pages);
            let rising = image.pages.windows(2).all(|pair| pair[0].index < pair[1].index);
            let limit = image.size_pages.saturating_mul(PAGES_PER_WASM_PAGE);
            let inside = image.pages.last().is_none_or(|page| page.index < limit);
            if !(size_fits && rising && inside) {
                return Err(Mismatch::Memory(index));
            }
        }
        Ok(())
    }

    fn check_globals(&self, values: &[Value]) -> Result<(), Mismatch> {
        let globals = self.saved_globals();
        count("globals", globals.len(), values.len())?;
        let fit = globals
            .iter()
            .zip(values)
            .all(|(global, &value)| self.fits(value, global.ty));
        if fit { Ok(()) } else { Err(Mismatch::Value("a global")) }
    }

    fn check_tables(&self, checkpoint: &Checkpoint) -> Result<(), Mismatch> {
        let tables = self.saved_tables();
        count("tables", tables.len(), checkpoint.tables.len())?;
        for (Saved { index, ty }, image) in tables.into_iter().zip(&checkpoint.tables) {
            let limits = &self.analysis.outline.tables[index as usize];
            let largest = limits.maximum.unwrap_or(u64::MAX);
            if !(limits.initial..=largest).contains(&(image.elements.len() as u64)) {
                return Err(Mismatch::Table(index));
            }
            if !image.elements.iter().all(|&value| self.fits(value, ty)) {
                return Err(Mismatch::Value("a table"));
            }
        }
        Ok(())
    }

    fn check_frames(&self, frames: &[Frame]) -> Result<(), Mismatch> {
        let mut bytes = u64::from(crate::frame::BASE);
        let mut inner: Option<&Frame> = None;
        for (index, frame) in frames.iter().enumerate() {
            let site = frame.site;
            let layout = self.layout(site.function, site.place).ok_or(Mismatch::Site(index))?;
            let types_fit = layout.values.len() == frame.values.len()
                && layout
                    .values
                    .iter()
                    .zip(&frame.values)
                    .all(|(&ty, &value)| self.fits(value, ty));
            if !types_fit {
                return Err(Mismatch::Value("a frame"));
            }
            let called = match (site.stop, inner, &layout.place) {
                (Stop::Here, None, _) => true,
                (Stop::Inside, Some(inner), Place::Call(results)) => *results == self.results(inner.site.function),
                _ => false,
            };
            if !called {
                return Err(Mismatch::Chain(index));
            }
            bytes += u64::from(layout.frame_bytes());
            inner = Some(frame);
        }
        if inner.is_none() {
            return Err(Mismatch::Count {
                what: "frames",
                expected: 1,
                found: 0,
            });
        }
        if bytes > self.save_memory_bytes() {
            return Err(Mismatch::FramesTooLarge);
        }
        Ok(())
    }

    /// The results of a defined function that has places.
    fn results(&self, function: u32) -> Vec<ValueType> {
        let ty = self.analysis.outline.type_of(function);
        ty.results().iter().filter_map(|&ty| ValueType::of(ty)).collect()
    }

    fn fits(&self, value: Value, ty: ValueType) -> bool {
        let known = match value {
            Value::Function(Some(function)) => self.analysis.references.binary_search(&function).is_ok(),
            _ => true,
        };
        known && value.ty() == ty
    }
}

fn count(what: &'static str, expected: usize, found: usize) -> Result<(), Mismatch> {
    if expected == found {
        return Ok(());
    }
    Err(Mismatch::Count { what, expected, found })
}
