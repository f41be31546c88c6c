//! Lets a guest that has stopped go on in its own instance: its memories and frames are where they have to be.

use wasmtime::{AsContextMut, Func, Instance, Ref};

use super::capture::SavedFrame;
use super::{Guest, Prepared};
use crate::frame::{BASE, CURSOR, HEADER_BYTES, TOP};
use crate::{Site, names};

/// A continuation beside a guest's instance.
#[derive(Clone, Copy)]
pub(super) struct Linked {
    pub function: Func,
    /// Its place in the table of functions.
    pub slot: u32,
}

impl Prepared {
    /// Makes a stopped guest ready for [`Guest::resume`], as a restore of its checkpoint would, but in place.
    ///
    /// Whoever asked it to stop since it did has not asked in vain: it stops again at its next place. References that
    /// were saved stay in the guest's tables, so a run with live references should be restored now and then instead.
    pub fn go_on(&self, guest: &mut Guest, mut store: impl AsContextMut) -> wasmtime::Result<()> {
        if !guest.is_stopped(&store) || guest.outermost.is_some() {
            wasmtime::bail!("the guest has not stopped");
        }
        let top = guest.word(&store, TOP);
        let mut end = top;
        let mut outermost = None;
        while end > BASE {
            let SavedFrame { site, begin, .. } = self.frame_that_ends_at(guest, &store, end)?;
            let linked = self.linked(guest, &mut store, site)?;
            guest.set_word(&mut store, end - HEADER_BYTES, linked.slot);
            outermost = outermost.or(Some(linked.function));
            end = begin;
        }
        guest.set_word(&mut store, CURSOR, top);
        guest.outermost = outermost;
        guest.stopper().clear()
    }

    /// Instantiates the continuation of a site beside the guest's instance, once.
    pub(super) fn linked(
        &self,
        guest: &mut Guest,
        mut store: impl AsContextMut,
        site: Site,
    ) -> wasmtime::Result<Linked> {
        if let Some(&linked) = guest.linked.get(&site) {
            return Ok(linked);
        }
        let module = self.continuation(site)?;
        let mut imports = Vec::new();
        for import in module.imports() {
            let found = guest.instance.get_export(&mut store, import.name());
            imports.push(found.expect("the main module exports all that continuations import"));
        }
        let instance = Instance::new(&mut store, &module, &imports)?;
        let function = instance.get_func(&mut store, names::CONTINUE);
        let function = function.expect("every continuation exports its function");
        let slot = guest.functions.grow(&mut store, 1, Ref::Func(Some(function)))?;
        let slot = u32::try_from(slot).expect("tables of 32 bits are shorter");
        let linked = Linked { function, slot };
        guest.linked.insert(site, linked);
        Ok(linked)
    }
}
