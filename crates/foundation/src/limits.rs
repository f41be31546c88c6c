//! Lambda's published quotas, each with its unit in the name.

use crate::units::Mebibytes;

/// Largest event or answer of a synchronous invocation: 6 MiB and 100 bytes.
pub const SYNC_PAYLOAD_BYTES_MAX: usize = 6 * 1024 * 1024 + 100;
/// Largest streamed answer: 200 MiB.
pub const STREAMED_BYTES_MAX: u64 = 200 * 1024 * 1024;
/// What a streamed answer may send at once where its bandwidth is limited: 6 MiB.
pub const STREAM_BURST_BYTES: u32 = 6 * 1024 * 1024;
/// Lowest and highest limit of a streamed answer's bandwidth.
pub const STREAM_BYTES_PER_SECOND_MIN: u32 = 32 * 1024;
/// See [`STREAM_BYTES_PER_SECOND_MIN`].
pub const STREAM_BYTES_PER_SECOND_MAX: u32 = 1024 * 1024 * 1024;
/// Largest event of an asynchronous invocation.
pub const ASYNC_PAYLOAD_BYTES_MAX: usize = 1024 * 1024;
/// Largest body of a request that carries code.
pub const CREATE_REQUEST_BYTES_MAX: usize = 70_167_211;
/// Largest deployment package uploaded directly.
pub const ZIPPED_CODE_BYTES_MAX: usize = 52_428_800;
/// Largest deployment package once unpacked, layers included.
pub const UNZIPPED_CODE_BYTES_MAX: u64 = 262_144_000;
/// Layers of a function.
pub const LAYERS_MAX: usize = 5;
/// Largest archive that an image is uploaded as: 10 GiB, as of an image itself.
pub const IMAGE_UPLOAD_BYTES_MAX: u64 = 10 * 1024 * 1024 * 1024;
/// Total of all deployment packages and layers of an account.
pub const CODE_STORAGE_BYTES_MAX: u64 = 80_530_636_800;
/// Largest sum of the names and values of the environment variables.
pub const ENVIRONMENT_BYTES_MAX: usize = 4096;
/// Largest client context, base64-encoded.
pub const CLIENT_CONTEXT_BYTES_MAX: usize = 3583;
/// Smallest and largest memory of a function.
pub const MEMORY_MIN: Mebibytes = Mebibytes(128);
/// See [`MEMORY_MIN`].
pub const MEMORY_MAX: Mebibytes = Mebibytes(10_240);
/// Smallest and largest `/tmp` of a function.
pub const EPHEMERAL_STORAGE_MIN: Mebibytes = Mebibytes(512);
/// See [`EPHEMERAL_STORAGE_MIN`].
pub const EPHEMERAL_STORAGE_MAX: Mebibytes = Mebibytes(10_240);
/// Longest timeout of a function, in seconds.
pub const TIMEOUT_SECONDS_MAX: u32 = 900;
/// Concurrent invocations of an account, unless configured otherwise.
pub const CONCURRENCY_DEFAULT: u32 = 1000;
/// The part of an account's concurrency that cannot be reserved.
pub const UNRESERVED_CONCURRENCY_MIN: u32 = 100;
/// Open files of a function.
pub const OPEN_FILES_MAX: u64 = 1024;
/// Processes and threads of a function.
pub const PROCESSES_MAX: u32 = 1024;
/// The tail of the log that `LogType=Tail` returns.
pub const LOG_TAIL_BYTES: usize = 4096;
/// Seconds a function may take to initialise, unless an invocation of it may take longer.
pub const INIT_SECONDS_MAX: u32 = 10;
/// Tags on one function.
pub const TAGS_MAX: usize = 50;
