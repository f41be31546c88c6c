//! Where the folder of an invocation is that is not kept here.

use bowline_foundation::id::AccountId;
use bowline_sandbox::Mount;

use super::owner::find;
use super::{FolderKind, StateError};
use crate::error::Error;
use crate::name::FunctionName;
use crate::service::Inner;

/// What is known of a folder.
pub(crate) enum Whereabouts {
    /// It is this node's, though it is not kept.
    Here,
    /// The node with this number has it.
    At(u64),
    /// It will not come back by itself; the text says why, and what to do.
    Gone(String),
}

impl Inner {
    /// Looks for a folder that is mounted by a function.
    pub(crate) async fn whereabouts(
        &self,
        account: &AccountId,
        function: &FunctionName,
        mount: &Mount,
    ) -> Result<Whereabouts, Error> {
        let entry = self.registry.snapshot.get(account, function);
        let attached = entry.as_ref().and_then(|entry| {
            let mut attached = entry.state()?.iter();
            attached.find(|(_, attachment)| attachment.mount().as_ref() == Some(mount))
        });
        let Some((name, attachment)) = attached else {
            let at = &mount.at;
            return Ok(Whereabouts::Gone(format!("what was at `{at}` is no longer attached")));
        };
        let removed = || {
            Ok(Whereabouts::Gone(format!(
                "`{name}` was removed; detach it from the function"
            )))
        };
        let record = match find(self, account, name).await {
            Ok(found) => found.record,
            Err(StateError::NoSuchState(_)) => return removed(),
            Err(error) => return Err(Error::service(error)),
        };
        let (Some(folder), Some(attached)) = (&record.folder, &attachment.folder) else {
            return removed();
        };
        if record.id != attachment.id {
            return removed();
        }
        if folder.kind == FolderKind::Memory && folder.generation != attached.generation {
            return Ok(Whereabouts::Gone(format!(
                "shared memory `{name}` was lost when its node ended; attach it again to go on with an empty one"
            )));
        }
        Ok(match folder.node == self.node {
            true => Whereabouts::Here,
            false => Whereabouts::At(folder.host),
        })
    }
}
