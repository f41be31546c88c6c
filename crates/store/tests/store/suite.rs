//! The conformance suite over every implementation.

mod memory {
    use crate::fixtures::Lasting;

    bowline_store::store_conformance!(Lasting::memory());
}

mod sqlite {
    use crate::fixtures::Sqlite;

    bowline_store::store_conformance!(Sqlite::new());
}

mod postgres {
    use crate::fixtures::Postgres;

    bowline_store::store_conformance!(if available Postgres::new());
}

mod faulty_postgres {
    use bowline_store::conformance::Fixture;

    use crate::fixtures::{Lasting, Postgres, delaying};

    async fn fixture() -> Option<Lasting> {
        Some(Lasting::new(delaying(Postgres::new().await?.store())))
    }

    bowline_store::store_conformance!(if available fixture());
}

mod faulty {
    use std::sync::Arc;

    use bowline_store::MemoryStore;

    use crate::fixtures::{Lasting, delaying};

    bowline_store::store_conformance!(Lasting::new(delaying(Arc::new(MemoryStore::default()))));
}
