//! What the rest of the node calls.

use std::collections::BTreeMap;
use std::sync::Arc;

use bowline_foundation::id::AccountId;
use bytes::Bytes;

use super::{Inner, InvocationRequest, InvocationResponse, StreamingResponse};
use crate::cluster::NodeView;
use crate::durable::ExecutionArn;
use crate::error::Error;
use crate::events::Upload;
use crate::invoke::Finish;
use crate::model::attached::{ProvisionedConfig, PutUrl, RuntimeManagement, UrlConfig};
use crate::model::events::{
    CreateMapping, EventInvokeConfig, Mapping, MappingChange, MappingFilter, PutEventInvoke, PutMode,
};
use crate::model::layers::{LayerFilter, LayerStatement, LayerVersion, PolicyTarget, PublishLayer, ShownPolicy};
use crate::model::sizing::{Profile, SizingChange};
use crate::model::{
    AccountUsage, Alias, Caller, Configuration, CreateAlias, CreateFunction, FunctionView, Page, PageRequest,
    PublishVersion, ResourcePolicy, UpdateAlias, UpdateCode, UpdateConfiguration,
};
use crate::name::layer::LayerRef;
use crate::name::{AliasName, FunctionName, FunctionRef, Qualifier, Version};
use crate::operations::tags::Edit;
use crate::operations::{
    aliases, concurrency, create, delete, event_invoke, kept, layer_policy, layers, list, mappings, policies,
    provisioned, publish, sizing, tags, update, urls,
};
use crate::policy::{Grant, Statement};

/// A cheap handle, cloned into every connection.
#[derive(Clone)]
pub struct Handle(Arc<Inner>);

impl Handle {
    pub(super) fn new(inner: Arc<Inner>) -> Self {
        Self(inner)
    }

    pub(crate) fn inner(&self) -> &Arc<Inner> {
        &self.0
    }

    /// Runs a mutation, to its end even if the caller goes away.
    pub(super) async fn finish<T: Send + 'static, E: Send + 'static>(
        &self,
        mutation: impl Future<Output = Result<T, E>> + Send + 'static,
    ) -> Result<T, E> {
        Finish::new(mutation, self.0.runtime.clone()).await
    }

    /// Whether the node was told where queues are: then an SQS ARN names a queue, and no stream.
    pub fn has_queues(&self) -> bool {
        self.0
            .events
            .as_ref()
            .is_some_and(|engine| engine.outside.beside().queues)
    }

    /// Refuses a creation where that can be done without its code, which may have to be fetched.
    pub fn check_creation(&self, caller: &Caller, request: &CreateFunction) -> Result<(), Error> {
        create::check(&self.0, caller, request)
    }

    pub async fn create_function(&self, caller: &Caller, request: CreateFunction) -> Result<Configuration, Error> {
        self.finish(create::run(self.0.clone(), caller.clone(), request)).await
    }

    /// A missing qualifier means `$LATEST`.
    pub fn get_function(&self, target: &FunctionRef) -> Result<FunctionView, Error> {
        let entry = self.0.entry(target)?;
        let found = self.0.target(&entry, target)?;
        Ok(FunctionView {
            configuration: Configuration::clone(found.configuration),
            tags: entry.tags.clone(),
            reserved_concurrency: entry.reserved,
        })
    }

    /// Without `all_versions`, `$LATEST` of each function by name; with it, every version too.
    pub fn list_functions(
        &self,
        caller: &Caller,
        all_versions: bool,
        page: &PageRequest,
    ) -> Result<Page<Configuration>, Error> {
        list::functions(
            &self.0.registry.snapshot.of_account(&caller.account),
            all_versions,
            page,
        )
    }

    /// Refuses an update where that can be done without its code, which may have to be fetched.
    pub fn check_update(&self, target: &FunctionRef, request: &UpdateCode) -> Result<(), Error> {
        update::check_code(&self.0, target, request)
    }

    pub async fn update_code(
        &self,
        caller: &Caller,
        target: &FunctionRef,
        request: UpdateCode,
    ) -> Result<Configuration, Error> {
        self.finish(update::code(self.0.clone(), caller.clone(), target.clone(), request))
            .await
    }

    pub async fn update_configuration(
        &self,
        caller: &Caller,
        target: &FunctionRef,
        request: UpdateConfiguration,
    ) -> Result<Configuration, Error> {
        self.finish(update::configuration(
            self.0.clone(),
            caller.clone(),
            target.clone(),
            request,
        ))
        .await
    }

    /// Deletes the function with all versions and aliases, or only the version the target is qualified with.
    pub async fn delete_function(&self, caller: &Caller, target: &FunctionRef) -> Result<(), Error> {
        self.finish(delete::run(self.0.clone(), caller.clone(), target.clone()))
            .await
    }

    pub async fn publish_version(
        &self,
        caller: &Caller,
        target: &FunctionRef,
        request: PublishVersion,
    ) -> Result<Configuration, Error> {
        self.finish(publish::run(self.0.clone(), caller.clone(), target.clone(), request))
            .await
    }

    /// `$LATEST` first, then oldest to newest.
    pub fn list_versions(&self, target: &FunctionRef, page: &PageRequest) -> Result<Page<Configuration>, Error> {
        list::versions(&*self.0.entry(target)?, page)
    }

    pub async fn create_alias(
        &self,
        caller: &Caller,
        target: &FunctionRef,
        request: CreateAlias,
    ) -> Result<Alias, Error> {
        self.finish(aliases::create(self.0.clone(), caller.clone(), target.clone(), request))
            .await
    }

    pub fn get_alias(&self, target: &FunctionRef, name: &AliasName) -> Result<Alias, Error> {
        let entry = self.0.entry(target)?;
        Ok(aliases::find(&self.0, &entry, name)?.alias.clone())
    }

    pub fn list_aliases(
        &self,
        target: &FunctionRef,
        version: Option<Version>,
        page: &PageRequest,
    ) -> Result<Page<Alias>, Error> {
        list::aliases(&*self.0.entry(target)?, version, page)
    }

    pub async fn update_alias(
        &self,
        caller: &Caller,
        target: &FunctionRef,
        name: &AliasName,
        request: UpdateAlias,
    ) -> Result<Alias, Error> {
        self.finish(aliases::update(
            self.0.clone(),
            caller.clone(),
            target.clone(),
            name.clone(),
            request,
        ))
        .await
    }

    /// Deleting an alias that does not exist succeeds, as the service does.
    pub async fn delete_alias(&self, caller: &Caller, target: &FunctionRef, name: &AliasName) -> Result<(), Error> {
        self.finish(aliases::delete(
            self.0.clone(),
            caller.clone(),
            target.clone(),
            name.clone(),
        ))
        .await
    }

    pub fn list_tags(&self, target: &FunctionRef) -> Result<BTreeMap<String, String>, Error> {
        Ok(self.0.entry(target)?.tags.clone())
    }

    pub async fn tag(
        &self,
        caller: &Caller,
        target: &FunctionRef,
        tags: BTreeMap<String, String>,
    ) -> Result<(), Error> {
        self.finish(tags::run(
            self.0.clone(),
            caller.clone(),
            target.clone(),
            Edit::Put(tags),
        ))
        .await
    }

    pub async fn untag(&self, caller: &Caller, target: &FunctionRef, keys: &[String]) -> Result<(), Error> {
        self.finish(tags::run(
            self.0.clone(),
            caller.clone(),
            target.clone(),
            Edit::Remove(keys.to_vec()),
        ))
        .await
    }

    /// `None` removes the reservation.
    pub async fn set_reserved_concurrency(
        &self,
        caller: &Caller,
        target: &FunctionRef,
        reserved: Option<u32>,
    ) -> Result<(), Error> {
        self.finish(concurrency::set(
            self.0.clone(),
            caller.clone(),
            target.clone(),
            reserved,
        ))
        .await
    }

    /// The nodes of the cluster that this one knows of, itself first.
    pub fn nodes(&self) -> Vec<NodeView> {
        self.0.nodes()
    }

    /// How the memory of a version follows its use.
    pub fn sizing(&self, target: &FunctionRef) -> Result<Profile, Error> {
        sizing::get(&self.0, target)
    }

    /// Changes that by hand.
    pub async fn change_sizing(
        &self,
        caller: &Caller,
        target: &FunctionRef,
        change: SizingChange,
    ) -> Result<Profile, Error> {
        self.finish(sizing::change(self.0.clone(), caller.clone(), target.clone(), change))
            .await
    }

    pub fn account_usage(&self, caller: &Caller) -> AccountUsage {
        self.0.usage(&caller.account)
    }

    /// The deployment package as uploaded.
    pub async fn read_code(&self, target: &FunctionRef) -> Result<Bytes, Error> {
        let entry = self.0.entry(target)?;
        let configuration = self.0.target(&entry, target)?.configuration;
        if configuration.image.is_some() {
            return Err(Error::InvalidParameter(
                "The function has no deployment package: its code is a container image.".to_owned(),
            ));
        }
        let digest = configuration.code.digest;
        self.0.blobs.get(&digest).await.map_err(Error::service)
    }

    /// Checks that an invocation would be admitted; runs nothing.
    pub fn dry_run(&self, target: &FunctionRef) -> Result<Version, Error> {
        let entry = self.0.entry(target)?;
        Ok(self.0.target(&entry, target)?.configuration.version)
    }

    /// Runs the function and waits for its answer.
    pub async fn invoke(&self, target: &FunctionRef, request: InvocationRequest) -> Result<InvocationResponse, Error> {
        self.0.invoke(target, request).await
    }

    /// Runs the function and returns as soon as its answer begins. The invocation runs to its end whether
    /// or not the answer is read; a slow reader holds the function back up to its deadline.
    pub async fn invoke_streaming(
        &self,
        target: &FunctionRef,
        request: InvocationRequest,
    ) -> Result<StreamingResponse, Error> {
        self.0.invoke_streaming(target, request).await
    }

    /// Accepts an event for the function; once this returns it is on disk, and is processed at least once.
    /// Returns the execution that it is, if the function is durable.
    pub async fn accept(
        &self,
        target: &FunctionRef,
        request: InvocationRequest,
    ) -> Result<Option<ExecutionArn>, Error> {
        let (inner, target) = (self.0.clone(), target.clone());
        self.finish(async move { inner.accept(&target, request).await }).await
    }

    /// Leaves an event with each function that is registered for a new object; says with how many. Telling of the same
    /// object again has no second effect.
    pub async fn uploaded(&self, upload: Upload) -> Result<usize, Error> {
        let inner = self.0.clone();
        self.finish(async move { inner.uploaded(&upload).await }).await
    }

    /// Says how the events of a function, version or alias are treated.
    pub async fn put_event_invoke(
        &self,
        caller: &Caller,
        target: &FunctionRef,
        request: PutEventInvoke,
        mode: PutMode,
    ) -> Result<EventInvokeConfig, Error> {
        let (inner, caller, target) = (self.0.clone(), caller.clone(), target.clone());
        self.finish(event_invoke::put(inner, caller, target, request, mode))
            .await
    }

    pub fn get_event_invoke(&self, target: &FunctionRef) -> Result<EventInvokeConfig, Error> {
        event_invoke::get(&self.0, target)
    }

    pub async fn delete_event_invoke(&self, caller: &Caller, target: &FunctionRef) -> Result<(), Error> {
        self.finish(event_invoke::delete(self.0.clone(), caller.clone(), target.clone()))
            .await
    }

    pub fn list_event_invokes(
        &self,
        target: &FunctionRef,
        page: &PageRequest,
    ) -> Result<Page<EventInvokeConfig>, Error> {
        list::event_invokes(&*self.0.entry(target)?, page)
    }

    pub async fn create_url(&self, caller: &Caller, target: &FunctionRef, request: PutUrl) -> Result<UrlConfig, Error> {
        self.finish(urls::create(self.0.clone(), caller.clone(), target.clone(), request))
            .await
    }

    pub fn get_url(&self, target: &FunctionRef) -> Result<UrlConfig, Error> {
        urls::get(&self.0, target)
    }

    pub async fn update_url(&self, caller: &Caller, target: &FunctionRef, request: PutUrl) -> Result<UrlConfig, Error> {
        self.finish(urls::update(self.0.clone(), caller.clone(), target.clone(), request))
            .await
    }

    pub async fn delete_url(&self, caller: &Caller, target: &FunctionRef) -> Result<(), Error> {
        self.finish(urls::delete(self.0.clone(), caller.clone(), target.clone()))
            .await
    }

    pub fn list_urls(&self, target: &FunctionRef, page: &PageRequest) -> Result<Page<UrlConfig>, Error> {
        urls::list(&self.0, target, page)
    }

    /// The URL with this identifier.
    pub fn url(&self, id: &str) -> Option<UrlConfig> {
        urls::by_id(&self.0, id)
    }

    /// Has so many sandboxes of a version or an alias kept initialised; `requested` is at least one.
    pub async fn put_provisioned(
        &self,
        caller: &Caller,
        target: &FunctionRef,
        requested: u32,
    ) -> Result<ProvisionedConfig, Error> {
        self.finish(provisioned::put(
            self.0.clone(),
            caller.clone(),
            target.clone(),
            requested,
        ))
        .await
    }

    pub fn get_provisioned(&self, target: &FunctionRef) -> Result<ProvisionedConfig, Error> {
        provisioned::get(&self.0, target)
    }

    /// Deleting what is not there succeeds, as the service does.
    pub async fn delete_provisioned(&self, caller: &Caller, target: &FunctionRef) -> Result<(), Error> {
        self.finish(provisioned::delete(self.0.clone(), caller.clone(), target.clone()))
            .await
    }

    pub fn list_provisioned(&self, target: &FunctionRef, page: &PageRequest) -> Result<Page<ProvisionedConfig>, Error> {
        provisioned::list(&self.0, target, page)
    }

    /// `None`: the platform chooses, which holds where nothing is said.
    pub async fn put_runtime_management(
        &self,
        caller: &Caller,
        target: &FunctionRef,
        wanted: Option<RuntimeManagement>,
    ) -> Result<(), Error> {
        self.finish(kept::put_runtime_management(
            self.0.clone(),
            caller.clone(),
            target.clone(),
            wanted,
        ))
        .await
    }

    pub fn runtime_management(&self, target: &FunctionRef) -> Result<Option<RuntimeManagement>, Error> {
        kept::runtime_management(&self.0, target)
    }

    /// Whether outcomes that lead back to the function go on without end.
    pub async fn set_recursion(&self, caller: &Caller, target: &FunctionRef, is_allowed: bool) -> Result<(), Error> {
        self.finish(kept::set_recursion(
            self.0.clone(),
            caller.clone(),
            target.clone(),
            is_allowed,
        ))
        .await
    }

    pub fn recursion_allowed(&self, target: &FunctionRef) -> Result<bool, Error> {
        Ok(self.0.entry(target)?.recursion_allowed)
    }

    /// Has a function read a stream. The mapping works once its state is `Enabled`.
    pub async fn create_mapping(&self, caller: &Caller, request: CreateMapping) -> Result<Mapping, Error> {
        self.finish(mappings::create(self.0.clone(), caller.clone(), request))
            .await
    }

    pub fn get_mapping(&self, caller: &Caller, id: &str) -> Result<Mapping, Error> {
        mappings::get(&self.0, caller, id)
    }

    pub async fn update_mapping(&self, caller: &Caller, id: &str, request: MappingChange) -> Result<Mapping, Error> {
        self.finish(mappings::update(self.0.clone(), caller.clone(), id.to_owned(), request))
            .await
    }

    pub async fn delete_mapping(&self, caller: &Caller, id: &str) -> Result<Mapping, Error> {
        self.finish(mappings::delete(self.0.clone(), caller.clone(), id.to_owned()))
            .await
    }

    pub async fn tag_mapping(&self, caller: &Caller, id: &str, tags: BTreeMap<String, String>) -> Result<(), Error> {
        let (inner, caller, id) = (self.0.clone(), caller.clone(), id.to_owned());
        self.finish(mappings::tag(inner, caller, id, Edit::Put(tags))).await
    }

    pub async fn untag_mapping(&self, caller: &Caller, id: &str, keys: &[String]) -> Result<(), Error> {
        let (inner, caller, id) = (self.0.clone(), caller.clone(), id.to_owned());
        self.finish(mappings::tag(inner, caller, id, Edit::Remove(keys.to_vec())))
            .await
    }

    /// The mappings that read a stream, by identifier, whoever made them.
    pub fn mappings_of(&self, stream: &str) -> Vec<String> {
        mappings::of_stream(&self.0, stream)
    }

    pub fn list_mappings(
        &self,
        caller: &Caller,
        filter: &MappingFilter,
        page: &PageRequest,
    ) -> Result<Page<Mapping>, Error> {
        mappings::list(&self.0, caller, filter, page)
    }

    /// Lets others use the function, version or alias; `revision` is that of the policy the caller knows.
    pub async fn add_permission(
        &self,
        caller: &Caller,
        target: &FunctionRef,
        grant: Grant,
        revision: Option<String>,
    ) -> Result<Statement, Error> {
        let (inner, caller, target) = (self.0.clone(), caller.clone(), target.clone());
        self.finish(policies::add(inner, caller, target, (grant, revision)))
            .await
    }

    /// Takes one statement out of the policy; with the last one the policy goes.
    pub async fn remove_permission(
        &self,
        caller: &Caller,
        target: &FunctionRef,
        sid: &str,
        revision: Option<String>,
    ) -> Result<(), Error> {
        let (inner, caller, target) = (self.0.clone(), caller.clone(), target.clone());
        self.finish(policies::remove(inner, caller, target, (sid.to_owned(), revision)))
            .await
    }

    pub fn get_policy(&self, target: &FunctionRef) -> Result<ResourcePolicy, Error> {
        policies::get(&self.0, target)
    }

    /// Puts a whole policy document in the place of the policy that is there.
    pub async fn put_policy(
        &self,
        caller: &Caller,
        target: &FunctionRef,
        document: String,
        revision: Option<String>,
    ) -> Result<ResourcePolicy, Error> {
        let (inner, caller, target) = (self.0.clone(), caller.clone(), target.clone());
        self.finish(policies::put(inner, caller, target, (document, revision)))
            .await
    }

    pub async fn delete_policy(
        &self,
        caller: &Caller,
        target: &FunctionRef,
        revision: Option<String>,
    ) -> Result<(), Error> {
        let (inner, caller, target) = (self.0.clone(), caller.clone(), target.clone());
        self.finish(policies::delete(inner, caller, target, revision)).await
    }

    /// Whether a caller of `account` may do `action` (`InvokeFunction`, say) with the target: its owner may do all,
    /// anybody else what the target's policy allows.
    pub fn authorize(&self, account: &AccountId, action: &str, target: &FunctionRef) -> Result<(), Error> {
        policies::authorize(&self.0, account, action, target)
    }

    /// Whether somebody may call a URL; `account` is the one whose signature was found good, none if the request has no
    /// signature. Even where no signature is wanted the policy must allow `InvokeFunctionUrl` and, for URLs that were
    /// not made before that was so, `InvokeFunction`: to everybody say.
    pub fn may_invoke_url(&self, account: Option<&AccountId>, config: &UrlConfig) -> Result<(), Error> {
        policies::authorize_url(&self.0, account, config)
    }

    pub async fn publish_layer(
        &self,
        caller: &Caller,
        layer: &LayerRef,
        request: PublishLayer,
    ) -> Result<LayerVersion, Error> {
        self.finish(layers::publish(self.0.clone(), caller.clone(), layer.clone(), request))
            .await
    }

    pub async fn get_layer_version(
        &self,
        caller: &Caller,
        layer: &LayerRef,
        number: u64,
    ) -> Result<LayerVersion, Error> {
        layers::get(&self.0, caller, layer, number).await
    }

    /// The archive as uploaded.
    pub async fn read_layer(&self, caller: &Caller, layer: &LayerRef, number: u64) -> Result<Bytes, Error> {
        let version = layers::get(&self.0, caller, layer, number).await?;
        self.0.blobs.get(&version.code.digest).await.map_err(Error::service)
    }

    /// The newest matching version of each layer of the account, by name.
    pub fn list_layers(
        &self,
        caller: &Caller,
        filter: &LayerFilter,
        page: &PageRequest,
    ) -> Result<Page<LayerVersion>, Error> {
        layers::list(&self.0, caller, filter, page)
    }

    /// Newest first.
    pub fn list_layer_versions(
        &self,
        caller: &Caller,
        layer: &LayerRef,
        filter: &LayerFilter,
        page: &PageRequest,
    ) -> Result<Page<LayerVersion>, Error> {
        layers::list_versions(&self.0, caller, layer, filter, page)
    }

    /// Functions that use the version keep it.
    pub async fn delete_layer_version(&self, caller: &Caller, layer: &LayerRef, number: u64) -> Result<(), Error> {
        self.finish(layers::delete(self.0.clone(), caller.clone(), layer.clone(), number))
            .await
    }

    /// Gives the statement that was added.
    pub async fn add_layer_permission(
        &self,
        caller: &Caller,
        target: PolicyTarget,
        statement: LayerStatement,
    ) -> Result<ShownPolicy, Error> {
        self.finish(layer_policy::add(self.0.clone(), caller.clone(), target, statement))
            .await
    }

    pub async fn get_layer_policy(&self, caller: &Caller, layer: &LayerRef, number: u64) -> Result<ShownPolicy, Error> {
        layer_policy::get(&self.0, caller, layer, number).await
    }

    pub async fn remove_layer_permission(
        &self,
        caller: &Caller,
        target: PolicyTarget,
        statement_id: &str,
    ) -> Result<(), Error> {
        let statement_id = statement_id.to_owned();
        self.finish(layer_policy::remove(
            self.0.clone(),
            caller.clone(),
            target,
            statement_id,
        ))
        .await
    }

    /// The ARN of a layer, or of one of its versions.
    pub fn layer_arn(&self, layer: &LayerRef, number: Option<u64>) -> String {
        self.0.layer_arn(layer, number)
    }

    /// The newest bytes of the function's log, at most `bytes_max`, beginning at a line's start.
    pub fn log_tail(&self, target: &FunctionRef, bytes_max: usize) -> Result<Vec<u8>, Error> {
        let entry = self.0.entry(target)?;
        self.0.logs.tail(&entry.live.log, bytes_max).map_err(Error::service)
    }

    /// What the function logs from now on; a reader that lags loses the oldest pieces.
    pub fn log_follow(&self, target: &FunctionRef) -> Result<tokio::sync::broadcast::Receiver<Bytes>, Error> {
        Ok(self.0.entry(target)?.live.log.follow())
    }

    /// The ARN of a function, qualified if a qualifier is given.
    pub fn arn(&self, account: &AccountId, name: &FunctionName, qualifier: Option<&Qualifier>) -> String {
        self.0.arn(account, name, qualifier)
    }

    /// Waits until nothing of the function is being prepared; returns `$LATEST`.
    pub async fn settled(&self, target: &FunctionRef) -> Result<Configuration, Error> {
        self.0.settled(target).await
    }

    /// The actions in the audit trail of a function (`ACCOUNT/NAME`), version or alias
    /// (`ACCOUNT/NAME:QUALIFIER`), oldest first.
    pub async fn audited(&self, subject: &str) -> Result<Vec<String>, Error> {
        self.0.registry.audited(subject).await.map_err(Error::service)
    }
}
