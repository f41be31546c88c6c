//! What lies in the store of shared state.

use bowline_foundation::clock::Timestamp;
use bowline_store::record::Record;
use serde::{Deserialize, Serialize};

use super::folder::FolderRecord;
use super::{StateName, Writers};

/// A resource; what is said of its folder changes with the node that has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ResourceRecord {
    pub id: String,
    pub name: StateName,
    pub writers: Writers,
    pub created: Timestamp,
    /// The client's token of its creation.
    pub token: Option<String>,
    /// Absent from sets of keys.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub folder: Option<FolderRecord>,
}

/// What changes with every write.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct HeadRecord {
    pub version: u64,
    pub entries: u32,
    pub bytes: u64,
    pub epoch: u64,
    pub lease: Option<LeaseRecord>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct LeaseRecord {
    /// The invocation's request id.
    pub holder: String,
    /// When another one may take it.
    pub until: Timestamp,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct EntryRecord {
    /// The resource's version with which it was written.
    pub version: u64,
    /// JSON.
    pub value: String,
}

/// Says that a node has kept volumes by this store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct KeeperRecord {
    pub since: Timestamp,
}

impl Record for KeeperRecord {
    const FORMAT: u32 = 1;
}

impl Record for ResourceRecord {
    const FORMAT: u32 = 1;
}

impl Record for HeadRecord {
    const FORMAT: u32 = 1;
}

impl Record for EntryRecord {
    const FORMAT: u32 = 1;
}

#[cfg(test)]
mod tests {
    use std::fmt::Debug;

    use super::super::FolderKind;
    use super::*;

    /// The record is read from its golden file, and written as it.
    fn check<R: Record + PartialEq + Debug>(record: &R, golden: &str) {
        let golden = golden.trim_end();
        assert_eq!(String::from_utf8_lossy(&record.encode()), golden);
        assert_eq!(&R::decode(golden.as_bytes()).expect("it is a record"), record);
    }

    #[test]
    fn records_are_what_their_golden_files_say() {
        let resource = ResourceRecord {
            id: "7f1a1a0e-38a6-4c8b-8a3a-2f6ed1b4b1c5".to_owned(),
            name: "counter".parse().expect("a good name"),
            writers: Writers::One,
            created: Timestamp::from_micros(1_795_217_079_123_456),
            token: Some("once".to_owned()),
            folder: None,
        };
        check(&resource, include_str!("golden/resource-1.json"));
        for (kind, golden) in [
            (FolderKind::Memory, include_str!("golden/resource-1-memory.json")),
            (FolderKind::Volume, include_str!("golden/resource-1-volume.json")),
        ] {
            let folder = Some(FolderRecord {
                kind,
                size_mib: 64,
                node: "node-1".to_owned(),
                host: 3,
                generation: 2,
            });
            check(
                &ResourceRecord {
                    folder,
                    ..resource.clone()
                },
                golden,
            );
        }
        let keeper = KeeperRecord {
            since: Timestamp::from_micros(1_795_217_079_123_456),
        };
        check(&keeper, include_str!("golden/keeper-1.json"));
        let head = HeadRecord {
            version: 7,
            entries: 1,
            bytes: 6,
            epoch: 3,
            lease: Some(LeaseRecord {
                holder: "7f1a1a0e-38a6-4c8b-8a3a-2f6ed1b4b1c5".to_owned(),
                until: Timestamp::from_micros(1_795_217_080_000_000),
            }),
        };
        check(&head, include_str!("golden/head-1.json"));
        let entry = EntryRecord {
            version: 7,
            value: "{\"n\":1}".to_owned(),
        };
        check(&entry, include_str!("golden/entry-1.json"));
    }
}
