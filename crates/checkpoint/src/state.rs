//! Which state of an instance a checkpoint holds, besides frames: what may have changed since the start.

use wasmparser::ValType;

use crate::plan::{Analysis, Plan};
use crate::value::ValueType;

/// Something that is saved, under its index in the instrumented module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Saved {
    pub index: u32,
    pub ty: ValueType,
}

impl Plan {
    /// Globals that may change, then the markers of dropped segments.
    pub(crate) fn saved_globals(&self) -> Vec<Saved> {
        let outline = &self.analysis.outline;
        let globals = (0..).zip(&outline.globals).filter(|(_, global)| global.mutable);
        let own = globals.map(|(index, global)| Saved {
            index,
            ty: ValueType::of(global.content_type).expect("globals of other types were refused"),
        });
        let markers = self.analysis.segments.markers.iter();
        let markers = markers.map(|&segment| Saved {
            index: self.analysis.segments.marker(segment),
            ty: ValueType::I32,
        });
        own.chain(markers).collect()
    }

    /// Tables that code changes or that the host can reach; the others are as the module made them.
    pub(crate) fn saved_tables(&self) -> Vec<Saved> {
        let tables = (0..).zip(&self.analysis.outline.tables);
        let changing = tables.filter(|(index, _)| may_change(&self.analysis, *index));
        changing
            .map(|(index, table)| Saved {
                index,
                ty: ValueType::of(ValType::Ref(table.element_type)).expect("tables of other types were refused"),
            })
            .collect()
    }

    /// How many linear memories the module has.
    pub fn memories(&self) -> u32 {
        u32::try_from(self.analysis.outline.memories.len()).expect("a module has few memories")
    }
}

fn may_change(analysis: &Analysis, table: u32) -> bool {
    analysis.calls.touched.tables.contains(&table) || analysis.outline.exported_tables.contains(&table)
}
