//! A server that is beyond repair gives its place to another, made from the instance's file.

use std::time::Duration;

use bowline_foundation::clock::Timestamp;

use super::{DriveError, Driver, removal};
use crate::book::Change;
use crate::decide::{self, Storm};
use crate::file::{Effective, InstanceFile};
use crate::model::{Assignment, FileRecord, Hold, Instance, Replacement, Server, State, Step};

/// A server's role from a moment on.
pub(super) fn assignment(instance: &Instance, server: &Server, from: Timestamp) -> Assignment {
    Assignment {
        server: server.id.clone(),
        instance: instance.name.clone(),
        role: instance.role.clone(),
        address: server.address.clone(),
        from,
        to: None,
    }
}

impl Driver {
    /// Takes the next step of the replacement under way.
    pub(super) async fn replace(&mut self) -> Result<(), DriveError> {
        let Some(replacement) = self.kept.record.replacement.clone() else {
            return Ok(());
        };
        match (replacement.step, replacement.new.clone()) {
            (Step::Detected, _) => self.cut_off(replacement).await,
            (Step::Fenced, _) | (_, None) => self.make_another(replacement).await,
            (Step::Created, Some(new)) => self.start_another(replacement, new).await,
            // The one that had started went with the node.
            (Step::Started, Some(new)) if self.link.is_none() => self.start_another(replacement, new).await,
            (Step::Started, Some(new)) => self.put_in_place(replacement, new).await,
        }
    }

    /// Detected ─▶ Fenced.
    async fn cut_off(&mut self, replacement: Replacement) -> Result<(), DriveError> {
        let old = self.kept.record.server.clone();
        self.fence(&old).await?;
        let mut new = self.kept.record.clone();
        new.server = self.moved(&old, State::AccessTerminated);
        let held = self.shared.book.held_by(&new.account, &old).await?;
        let change = Change::default().event("fence", &old).release(held);
        new.replacement = Some(Replacement {
            step: Step::Fenced,
            fenced_at: Some(self.shared.clock.now()),
            ..replacement
        });
        self.commit("FenceServer", new, change).await?;
        self.shared.crash.at("after_fence");
        Ok(())
    }

    /// Fenced ─▶ Created, unless there were too many, or the file does not allow it.
    async fn make_another(&mut self, replacement: Replacement) -> Result<(), DriveError> {
        let now = self.shared.clock.now();
        let policy = self.kept.record.policy().clone();
        match decide::storm(&self.kept.record.replaced_at, &policy, now) {
            Storm::Hold => {
                let replacements = policy.replacements_max;
                return self.hold(Hold::Storm { replacements }).await;
            }
            Storm::From(at) => {
                let mut removing = self.removing.clone();
                tokio::select! {
                    () = tokio::time::sleep(at.since(now)) => {}
                    () = removal(&mut removing) => return Ok(()),
                }
            }
        }
        let (file, effective) = match self.determine().await? {
            Ok(determined) => determined,
            Err(reason) => return self.hold(Hold::File { reason }).await,
        };
        let server = self
            .shared
            .new_server(&file, effective, Some(replacement.failed.clone()));
        let mut new = self.kept.record.clone();
        let window = Duration::from_secs(policy.window_seconds.into());
        new.replaced_at = decide::recent(&new.replaced_at, window, now).to_vec();
        new.replaced_at.push(self.shared.clock.now());
        let change = Change::default()
            .told("locate", &server, &file.id)
            .event("determine", &server)
            .told("create", &server, &replacement.failed);
        new.replacement = Some(Replacement {
            step: Step::Created,
            digest_used: Some(server.digest),
            new: Some(server),
            attempts: replacement.attempts + 1,
            ..replacement
        });
        self.commit("CreateServer", new, change).await?;
        self.shared.crash.at("after_create");
        Ok(())
    }

    /// What the next server is to be: by the file as it is now, or as the failed server had it.
    async fn determine(&self) -> Result<Result<(FileRecord, Effective), String>, DriveError> {
        let instance = &self.kept.record;
        let found = self.shared.book.file(&instance.account, &instance.file).await?;
        let Some(mut file) = found.map(|kept| kept.record) else {
            return Ok(Err(format!(
                "instance file `{}` does not exist any more",
                instance.file
            )));
        };
        if instance.policy().pin_revision {
            file.revision = instance.server.revision;
            file.digest = instance.server.digest;
            return Ok(Ok((file, instance.server.effective.clone())));
        }
        let parsed = match InstanceFile::parse(&file.text) {
            Ok(parsed) => parsed,
            Err(error) => return Ok(Err(error.to_string())),
        };
        let Some(effective) = parsed.effective(instance.role.as_deref()) else {
            let role = instance.role.as_deref().unwrap_or_default();
            return Ok(Err(format!(
                "instance file `{}` has no role `{role}` any more",
                instance.file
            )));
        };
        Ok(self.shared.feasible(&effective).map(|()| (file, effective)))
    }

    /// Created ─▶ Started, or back to Fenced.
    async fn start_another(&mut self, replacement: Replacement, server: Server) -> Result<(), DriveError> {
        match self.boot(server).await? {
            Ok(server) => {
                let server = self.moved(&server, State::Running);
                let mut new = self.kept.record.clone();
                let change = Change::default().event("running", &server);
                new.replacement = Some(Replacement {
                    step: Step::Started,
                    new: Some(server),
                    ..replacement
                });
                self.commit("StartServer", new, change).await?;
                self.shared.crash.at("after_start");
            }
            Err(failure) => {
                let server = self.kept.record.current().clone();
                self.end(&server).await?;
                let mut new = self.kept.record.clone();
                let held = self.shared.book.held_by(&new.account, &server).await?;
                let change = Change::default().told("failed", &server, &failure).release(held);
                new.failure = Some(failure);
                new.replacement = Some(Replacement {
                    step: Step::Fenced,
                    new: None,
                    ..replacement
                });
                self.commit("StartServer", new, change).await?;
            }
        }
        Ok(())
    }

    /// Started ─▶ over: the new server is the instance's, with its role.
    async fn put_in_place(&mut self, replacement: Replacement, server: Server) -> Result<(), DriveError> {
        let old = self.kept.record.server.clone();
        let mut new = self.kept.record.clone();
        let now = self.shared.clock.now();
        let change = Change::default()
            .event("cmdb", &server)
            .replaced(&new.account, &replacement);
        let change = self.retire_role(change, &old).await?;
        let change = change.assign(&new, &server, &assignment(&new, &server, now));
        new.server = server;
        new.failure = None;
        new.replacement = None;
        self.commit("ReplaceServer", new, change).await?;
        self.shared.metrics.replacements.inc();
        self.shared.crash.at("after_cmdb");
        if let Some(provider) = self.shared.provider(old.effective.kind) {
            provider.destroy(&old.id).await?;
        }
        self.serve();
        Ok(())
    }

    /// Ends what a fenced server was assigned; its claims went with the fence.
    pub(super) async fn retire_role(&self, change: Change, server: &Server) -> Result<Change, DriveError> {
        let instance = &self.kept.record;
        let known = self
            .shared
            .book
            .assignment(&instance.account, &instance.name, &server.id)
            .await?;
        Ok(match known.filter(|known| known.to.is_none()) {
            None => change,
            Some(mut known) => {
                known.to = Some(self.shared.clock.now());
                change.assign(instance, server, &known)
            }
        })
    }
}
