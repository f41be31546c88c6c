//! What the rest of the node calls about shared state.

use super::Handle;
use crate::model::Caller;
use crate::name::FunctionRef;
use crate::state::{self, Attach, NewState, StateEntry, StateError, StateName, StateView};

impl Handle {
    pub async fn create_state(&self, caller: &Caller, new: NewState) -> Result<StateView, StateError> {
        let (inner, caller) = (self.inner().clone(), caller.clone());
        self.finish(state::create(inner, caller, new)).await
    }

    /// Those of the caller's account, by name.
    pub async fn states(&self, caller: &Caller) -> Result<Vec<StateView>, StateError> {
        state::list(self.inner(), &caller.account).await
    }

    pub async fn state(&self, caller: &Caller, name: &StateName) -> Result<StateView, StateError> {
        state::show(self.inner(), &caller.account, name).await
    }

    pub async fn state_entry(&self, caller: &Caller, name: &StateName, key: &str) -> Result<StateEntry, StateError> {
        state::read(self.inner(), &caller.account, name, key).await
    }

    pub async fn attach_state(
        &self,
        caller: &Caller,
        name: StateName,
        target: &FunctionRef,
        attach: Attach,
    ) -> Result<StateView, StateError> {
        let (inner, caller, target) = (self.inner().clone(), caller.clone(), target.clone());
        self.finish(async move { state::attach(inner, caller, name, target, attach).await })
            .await
    }

    pub async fn detach_state(&self, caller: &Caller, name: StateName, target: &FunctionRef) -> Result<(), StateError> {
        let (inner, caller, target) = (self.inner().clone(), caller.clone(), target.clone());
        self.finish(async move { state::detach(inner, caller, name, target).await })
            .await
    }

    /// Refused while a function has it.
    pub async fn delete_state(&self, caller: &Caller, name: StateName) -> Result<(), StateError> {
        let (inner, caller) = (self.inner().clone(), caller.clone());
        self.finish(async move { state::delete(inner, caller, name).await })
            .await
    }
}
