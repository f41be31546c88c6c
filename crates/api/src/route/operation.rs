//! The names of everything the server can be asked.

macro_rules! operations {
    ($($name:ident),* $(,)?) => {
        /// What a request asks for: Lambda's 91 operations, then the node's own.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum Operation {
            $($name,)*
        }

        impl Operation {
            /// All of them, in the order of their numbers.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The name, as Lambda's documentation has it.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$name => stringify!($name),)*
                }
            }
        }
    };
}

operations! {
    AddLayerVersionPermission,
    AddPermission,
    CheckpointDurableExecution,
    CreateAlias,
    CreateCapacityProvider,
    CreateCodeSigningConfig,
    CreateEventSourceMapping,
    CreateFunction,
    CreateFunctionUrlConfig,
    DeleteAlias,
    DeleteCapacityProvider,
    DeleteCodeSigningConfig,
    DeleteDurableExecution,
    DeleteEventSourceMapping,
    DeleteFunction,
    DeleteFunctionCodeSigningConfig,
    DeleteFunctionConcurrency,
    DeleteFunctionEventInvokeConfig,
    DeleteFunctionUrlConfig,
    DeleteLayerVersion,
    DeleteProvisionedConcurrencyConfig,
    DeleteResourcePolicy,
    GetAccountSettings,
    GetAlias,
    GetCapacityProvider,
    GetCodeSigningConfig,
    GetDurableExecution,
    GetDurableExecutionHistory,
    GetDurableExecutionState,
    GetEventSourceMapping,
    GetFunction,
    GetFunctionCodeSigningConfig,
    GetFunctionConcurrency,
    GetFunctionConfiguration,
    GetFunctionEventInvokeConfig,
    GetFunctionRecursionConfig,
    GetFunctionScalingConfig,
    GetFunctionUrlConfig,
    GetLayerVersion,
    GetLayerVersionByArn,
    GetLayerVersionPolicy,
    GetPolicy,
    GetProvisionedConcurrencyConfig,
    GetResourcePolicy,
    GetRuntimeManagementConfig,
    Invoke,
    InvokeAsync,
    InvokeWithResponseStream,
    ListAliases,
    ListCapacityProviders,
    ListCodeSigningConfigs,
    ListDurableExecutionsByFunction,
    ListEventSourceMappings,
    ListFunctionEventInvokeConfigs,
    ListFunctionUrlConfigs,
    ListFunctionVersionsByCapacityProvider,
    ListFunctions,
    ListFunctionsByCodeSigningConfig,
    ListLayerVersions,
    ListLayers,
    ListProvisionedConcurrencyConfigs,
    ListTags,
    ListVersionsByFunction,
    PauseDurableExecution,
    PublishLayerVersion,
    PublishVersion,
    PutFunctionCodeSigningConfig,
    PutFunctionConcurrency,
    PutFunctionEventInvokeConfig,
    PutFunctionRecursionConfig,
    PutFunctionScalingConfig,
    PutProvisionedConcurrencyConfig,
    PutResourcePolicy,
    PutRuntimeManagementConfig,
    RemoveLayerVersionPermission,
    RemovePermission,
    ResumeDurableExecution,
    SendDurableExecutionCallbackFailure,
    SendDurableExecutionCallbackHeartbeat,
    SendDurableExecutionCallbackSuccess,
    StopDurableExecution,
    TagResource,
    UntagResource,
    UpdateAlias,
    UpdateCapacityProvider,
    UpdateCodeSigningConfig,
    UpdateEventSourceMapping,
    UpdateFunctionCode,
    UpdateFunctionConfiguration,
    UpdateFunctionEventInvokeConfig,
    UpdateFunctionUrlConfig,
    Welcome,
    Health,
    Metrics,
    ReadLogs,
    ReadCode,
    ReadCheckpointing,
    ReadLayer,
    GetSizing,
    ChangeSizing,
    PushImage,
    ListImages,
    DeleteImage,
    AppendEvents,
    ReadEvents,
    CreateStream,
    ListStreams,
    ShowStream,
    TrimStream,
    SetStream,
    DeleteStream,
    CreateSession,
    ListSessions,
    ShowSession,
    DeleteSession,
    SeekSession,
    ReadBatch,
    AckBatch,
    NackBatch,
    ExtendBatch,
    ListParked,
    RedriveParked,
    DropParked,
    CreateObject,
    QueryObjects,
    GetObject,
    UpdateObject,
    DeleteObject,
    ListObjectEvents,
    ListStores,
    ListNodes,
    CreateState,
    ListStates,
    ShowState,
    DeleteState,
    ReadState,
    AttachState,
    DetachState,
    ListCheckpoints,
    ShowCheckpoint,
    ReadCheckpoint,
    ReadOutcome,
    TakeCheckpoint,
    ResumeCheckpoint,
    MoveCheckpoint,
    DeleteCheckpoint,
    GetOpenApi,
    InvokeFunctionUrl,
}

impl Operation {
    /// How many of [`Operation::ALL`] are Lambda's.
    pub const LAMBDA: usize = 91;

    /// The action that a policy must allow for it; that of most operations has the operation's name.
    pub fn action(self) -> &'static str {
        match self {
            Self::Invoke | Self::InvokeWithResponseStream => "InvokeFunction",
            Self::ReadCode | Self::ReadCheckpointing => "GetFunction",
            other => other.name(),
        }
    }
}
