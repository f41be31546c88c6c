//! The conformance suite over every implementation.

mod memory {
    use crate::fixtures::Lasting;

    bowline_store::store_conformance!(Lasting::memory());
}

mod sqlite {
    use crate::fixtures::Sqlite;

    bowline_store::store_conformance!(Sqlite::new());
}

mod faulty {
    use std::sync::Arc;

    use bowline_store::MemoryStore;

    use crate::fixtures::{Lasting, delaying};

    bowline_store::store_conformance!(Lasting::new(delaying(Arc::new(MemoryStore::default()))));
}
