//! A group of commits as the arrays that the server's function takes, and its answer.

use std::collections::{BTreeMap, HashMap};

use tokio_postgres::types::ToSql;

use super::locks;
use crate::{CommitError, Condition, Version, Write};

/// Keys that get locks of their own; the store is locked as a whole for a group with more. A server has
/// room for some thousand locks in all, which every node's groups in flight share.
pub(super) const LOCKED_KEYS_MAX: usize = 256;

/// A single commit with so many keys at most goes by plain statements, one a key.
const FEW_KEYS: usize = 8;

/// What no value's version is: for conditions that can never hold.
const NEVER: i64 = -1;
/// The version, in conditions, of a key without a value.
const NO_VALUE: i64 = 0;

/// One commit, as a group sees it.
pub(super) type Commit<'a> = (&'a [Condition], &'a [Write]);

/// The arguments of `apply_1` and `commit_1`.
#[derive(Default)]
pub(super) struct Group<'a> {
    gate: i64,
    locks: Option<Vec<i64>>,
    exclusive: Option<Vec<bool>>,
    keys: Vec<&'a [u8]>,
    condition_ends: Vec<i32>,
    condition_keys: Vec<i32>,
    condition_names: Vec<&'a [u8]>,
    condition_versions: Vec<i64>,
    write_ends: Vec<i32>,
    write_keys: Vec<i32>,
    write_names: Vec<&'a [u8]>,
    write_values: Vec<Option<&'a [u8]>>,
}

impl<'a> Group<'a> {
    pub fn of(schema: &str, commits: impl Iterator<Item = Commit<'a>>) -> Self {
        let mut group = Self::default();
        let mut numbers = HashMap::new();
        for (conditions, writes) in commits {
            for condition in conditions {
                let number = group.number(&mut numbers, condition.key());
                group.condition_keys.push(number);
                group.condition_names.push(condition.key());
                group.condition_versions.push(expected_version(condition));
            }
            for write in writes {
                group.push_write(&mut numbers, write);
            }
            group.condition_ends.push(count(group.condition_keys.len()));
            group.write_ends.push(count(group.write_keys.len()));
        }
        group.lock(schema);
        group
    }

    /// The key's place in `keys`, counted from 1.
    fn number(&mut self, numbers: &mut HashMap<&'a [u8], i32>, key: &'a [u8]) -> i32 {
        *numbers.entry(key).or_insert_with(|| {
            self.keys.push(key);
            count(self.keys.len())
        })
    }

    fn push_write(&mut self, numbers: &mut HashMap<&'a [u8], i32>, write: &'a Write) {
        let (key, value) = match write {
            Write::Put(key, value) => (key, Some(&value[..])),
            Write::Delete(key) => (key, None),
        };
        let number = self.number(numbers, key);
        self.write_keys.push(if value.is_some() { number } else { -number });
        self.write_names.push(key);
        self.write_values.push(value);
    }

    /// Chooses the locks: in ascending order, the same for every node, so that groups never wait in a ring.
    fn lock(&mut self, schema: &str) {
        self.gate = locks::gate(schema);
        if self.keys.len() > LOCKED_KEYS_MAX {
            return;
        }
        let mut modes: BTreeMap<i64, bool> = self
            .keys
            .iter()
            .map(|key| (locks::of_key(schema, key), false))
            .collect();
        for key in &self.write_names {
            modes.insert(locks::of_key(schema, key), true);
        }
        self.locks = Some(modes.keys().copied().collect());
        self.exclusive = Some(modes.into_values().collect());
    }

    /// Whether `commit_1` takes it.
    pub fn is_small(&self) -> bool {
        self.condition_ends.len() == 1 && self.keys.len() <= FEW_KEYS && self.write_names.len() <= FEW_KEYS
    }

    /// The arguments of `commit_1`, in its order.
    pub fn commit_arguments(&self) -> [&(dyn ToSql + Sync); 7] {
        [
            &self.gate,
            &self.locks,
            &self.exclusive,
            &self.condition_names,
            &self.condition_versions,
            &self.write_names,
            &self.write_values,
        ]
    }

    pub fn arguments(&self) -> [&(dyn ToSql + Sync); 11] {
        [
            &self.gate,
            &self.locks,
            &self.exclusive,
            &self.keys,
            &self.condition_ends,
            &self.condition_keys,
            &self.condition_versions,
            &self.write_ends,
            &self.write_keys,
            &self.write_names,
            &self.write_values,
        ]
    }
}

/// What the server's answer for one commit says.
pub(super) fn outcome(answer: i64, conditions: &[Condition]) -> Result<Version, CommitError> {
    if let Ok(version @ 1..) = u64::try_from(answer) {
        return Ok(Version(version));
    }
    let broken = usize::try_from(answer.unsigned_abs()).ok();
    let broken = broken.and_then(|ordinal| conditions.get(ordinal.checked_sub(1)?));
    Err(match broken {
        Some(condition) => CommitError::Conflict(condition.key().clone()),
        None => CommitError::Unknown(format!("the database answered `{answer}`")),
    })
}

fn expected_version(condition: &Condition) -> i64 {
    match condition {
        Condition::Absent(_) => NO_VALUE,
        Condition::AtVersion(_, version) => match i64::try_from(version.0) {
            Ok(version @ 1..) => version,
            _ => NEVER,
        },
    }
}

fn count(number: usize) -> i32 {
    i32::try_from(number).expect("a group has far fewer than two thousand million parts")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Key;

    fn put(key: &'static str) -> Write {
        Write::Put(Key::from(key), Key::from("value"))
    }

    #[test]
    fn keys_are_numbered_once_and_locked_in_order() {
        let conditions = [
            Condition::AtVersion("guard".into(), Version(7)),
            Condition::Absent("a".into()),
        ];
        let writes = [put("a"), Write::Delete("b".into()), put("a")];
        let group = Group::of(
            "bowline",
            [(&conditions[..], &writes[..]), (&[], &writes[..1])].into_iter(),
        );
        assert_eq!(group.keys, [b"guard" as &[u8], b"a", b"b"]);
        assert_eq!(
            (&group.condition_keys[..], &group.condition_versions[..]),
            (&[1, 2][..], &[7, 0][..])
        );
        assert_eq!(group.write_keys, [2, -3, 2, 2]);
        assert_eq!(
            (&group.condition_ends[..], &group.write_ends[..]),
            (&[2, 2][..], &[3, 4][..])
        );
        let locks = group.locks.unwrap();
        assert!(locks.is_sorted() && locks.len() == 3);
        let guard = locks
            .iter()
            .position(|lock| *lock == locks::of_key("bowline", b"guard"));
        let modes = group.exclusive.unwrap();
        assert!(
            modes
                .iter()
                .enumerate()
                .all(|(at, exclusive)| *exclusive != (Some(at) == guard))
        );
    }

    #[test]
    fn versions_that_no_value_has_are_never_taken_for_absence() {
        for version in [0, u64::MAX, 1 << 63] {
            assert_eq!(
                expected_version(&Condition::AtVersion("a".into(), Version(version))),
                NEVER
            );
        }
        assert_eq!(expected_version(&Condition::Absent("a".into())), NO_VALUE);
    }

    #[test]
    fn too_many_keys_lock_the_whole_store() {
        let writes: Vec<_> = (0..=LOCKED_KEYS_MAX)
            .map(|index| Write::Delete(Key::from(index.to_string())))
            .collect();
        let locks = |writes: &[Write]| {
            Group::of("bowline", [(&[][..], writes)].into_iter())
                .locks
                .map(|locks| locks.len())
        };
        assert_eq!(locks(&writes), None);
        assert_eq!(locks(&writes[1..]), Some(LOCKED_KEYS_MAX));
    }

    #[test]
    fn answers_name_the_version_or_the_broken_condition() {
        let conditions = [Condition::Absent("a".into()), Condition::Absent("b".into())];
        assert!(matches!(outcome(9, &conditions), Ok(Version(9))));
        assert!(matches!(outcome(-2, &conditions), Err(CommitError::Conflict(key)) if key == "b"));
        for nonsense in [0, -3, i64::MIN] {
            assert!(matches!(outcome(nonsense, &conditions), Err(CommitError::Unknown(_))));
        }
    }
}
