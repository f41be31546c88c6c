//! Which keys the groups in flight touch, so that commits of one key stay in their order of arrival.

use std::collections::HashMap;

use crate::{Condition, Key, Write};

/// Keys with how many commits only judge them and how many write them.
#[derive(Debug, Default)]
pub(super) struct Touched(HashMap<Key, Uses>);

#[derive(Clone, Copy, Debug, Default)]
struct Uses {
    judged: u32,
    written: u32,
}

impl Touched {
    /// Whether a commit may run beside all that are noted here: it writes none of their keys, and judges
    /// none that they write.
    pub fn admits(&self, conditions: &[Condition], writes: &[Write]) -> bool {
        self.0.is_empty()
            || (conditions
                .iter()
                .all(|condition| self.uses(condition.key()).written == 0)
                && writes.iter().all(|write| {
                    let uses = self.uses(key_of(write));
                    uses.written == 0 && uses.judged == 0
                }))
    }

    /// Notes a commit.
    pub fn add(&mut self, conditions: &[Condition], writes: &[Write]) {
        for condition in conditions {
            self.0.entry(condition.key().clone()).or_default().judged += 1;
        }
        for write in writes {
            self.0.entry(key_of(write).clone()).or_default().written += 1;
        }
    }

    /// Forgets a commit that was noted.
    pub fn remove(&mut self, conditions: &[Condition], writes: &[Write]) {
        for condition in conditions {
            self.lower(condition.key(), |uses| uses.judged -= 1);
        }
        for write in writes {
            self.lower(key_of(write), |uses| uses.written -= 1);
        }
    }

    fn uses(&self, key: &Key) -> Uses {
        self.0.get(key).copied().unwrap_or_default()
    }

    fn lower(&mut self, key: &Key, by_one: impl FnOnce(&mut Uses)) {
        let uses = self.0.get_mut(key).expect("only what was noted is forgotten");
        by_one(uses);
        if uses.judged + uses.written == 0 {
            self.0.remove(key);
        }
    }
}

fn key_of(write: &Write) -> &Key {
    match write {
        Write::Put(key, _) | Write::Delete(key) => key,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shared_guard_lets_commits_run_side_by_side_a_written_key_does_not() {
        let guard = [Condition::Absent("guard".into())];
        let write = |key: &'static str| [Write::Delete(key.into())];
        let mut touched = Touched::default();
        touched.add(&guard, &write("a"));
        assert!(touched.admits(&guard, &write("b")));
        assert!(!touched.admits(&guard, &write("a")), "both write `a`");
        assert!(
            !touched.admits(&[], &write("guard")),
            "one judges what the other writes"
        );
        assert!(
            !touched.admits(&[Condition::Absent("a".into())], &[]),
            "and the other way round"
        );
        touched.add(&guard, &write("b"));
        touched.remove(&guard, &write("a"));
        assert!(touched.admits(&[], &write("a")));
        assert!(
            !touched.admits(&[], &write("guard")),
            "the second commit still judges it"
        );
        touched.remove(&guard, &write("b"));
        assert!(touched.0.is_empty());
    }
}
