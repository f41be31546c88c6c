//! The host's part of a checkpoint as bytes; `docs/checkpoint-format.md` has every byte.
//!
//! It is read with limits: a count is never believed before the bytes are there.

use bowline_foundation::digest::Digest;

use super::DESCRIPTORS_MAX;
use super::files::PATH_BYTES_MAX;

/// The version that is written, and the only one that is read.
pub const HOST_VERSION: u32 = 1;
/// The longest text of an argument or a variable.
const TEXT_BYTES_MAX: usize = 1 << 20;
/// Most arguments, and most variables.
const TEXTS_MAX: usize = 4096;
/// Most bytes of input, and of kept output.
const STREAM_BYTES_MAX: usize = 64 << 20;

/// What a host keeps for its guest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostState {
    /// The latest reading of the wall clock.
    pub wall_nanos: u64,
    /// The monotonic clock, without what is owed.
    pub monotonic_nanos: u64,
    /// For how long the guest still has to wait before it goes on.
    pub owed_nanos: u64,
    pub arguments: Vec<String>,
    pub environment: Vec<String>,
    /// What is left of standard input.
    pub stdin: Vec<u8>,
    pub stdout: OutputState,
    /// How much was written to standard error.
    pub stderr_bytes: u64,
    /// Which export the host has called; empty while the module's start function runs.
    pub calling: String,
    /// By rising number.
    pub descriptors: Vec<DescriptorState>,
}

/// Standard output so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OutputState {
    pub kept: Vec<u8>,
    /// How much was written; more than is kept if it was too much.
    pub bytes: u64,
}

/// One of a guest's numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DescriptorState {
    pub number: u32,
    pub(super) kind: Kind,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Stdin,
    Stdout,
    Stderr,
    Open(FileState),
}

/// An open file or folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileState {
    /// Which of the host's folders it lies in.
    pub folder: u32,
    /// Below that folder.
    pub path: String,
    pub is_folder: bool,
    /// Whether the host gave it.
    pub is_given: bool,
    pub offset: u64,
    pub rights: u64,
    pub inheriting: u64,
    pub flags: u16,
    /// Of a file: the digest of its content.
    pub content: Option<Digest>,
}

/// Why the host's part cannot be written or read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HostStateError {
    /// A file that is open cannot be compared later.
    #[error("the open file `{path}` cannot be part of a checkpoint: {reason}")]
    File { path: String, reason: String },
    /// Another version wrote it.
    #[error("the host's part of the checkpoint has version `{0}`, this node reads version `{HOST_VERSION}`")]
    Version(u32),
    /// The bytes are not what the version says.
    #[error("the host's part of the checkpoint is malformed: {0}")]
    Malformed(&'static str),
}

impl HostState {
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend_from_slice(&HOST_VERSION.to_le_bytes());
        for number in [self.wall_nanos, self.monotonic_nanos, self.owed_nanos] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        for texts in [&self.arguments, &self.environment] {
            count(&mut bytes, texts.len());
            texts.iter().for_each(|text| put(&mut bytes, text.as_bytes()));
        }
        put(&mut bytes, &self.stdin);
        put(&mut bytes, &self.stdout.kept);
        bytes.extend_from_slice(&self.stdout.bytes.to_le_bytes());
        bytes.extend_from_slice(&self.stderr_bytes.to_le_bytes());
        put(&mut bytes, self.calling.as_bytes());
        count(&mut bytes, self.descriptors.len());
        self.descriptors
            .iter()
            .for_each(|descriptor| descriptor.encode(&mut bytes));
        bytes
    }

    pub fn decode(bytes: &[u8]) -> Result<Self, HostStateError> {
        let mut bytes = Bytes(bytes);
        let version = bytes.u32()?;
        if version != HOST_VERSION {
            return Err(HostStateError::Version(version));
        }
        let [wall_nanos, monotonic_nanos, owed_nanos] = [bytes.u64()?, bytes.u64()?, bytes.u64()?];
        let state = Self {
            wall_nanos,
            monotonic_nanos,
            owed_nanos,
            arguments: bytes.texts()?,
            environment: bytes.texts()?,
            stdin: bytes.run(STREAM_BYTES_MAX)?.to_vec(),
            stdout: OutputState {
                kept: bytes.run(STREAM_BYTES_MAX)?.to_vec(),
                bytes: bytes.u64()?,
            },
            stderr_bytes: bytes.u64()?,
            calling: text(bytes.run(PATH_BYTES_MAX)?)?,
            descriptors: bytes.descriptors()?,
        };
        if (state.stdout.kept.len() as u64) > state.stdout.bytes {
            return Err(HostStateError::Malformed("it keeps more output than was written"));
        }
        if !bytes.0.is_empty() {
            return Err(HostStateError::Malformed("bytes follow its end"));
        }
        Ok(state)
    }
}

impl DescriptorState {
    fn encode(&self, bytes: &mut Vec<u8>) {
        bytes.extend_from_slice(&self.number.to_le_bytes());
        let file = match &self.kind {
            Kind::Stdin => return bytes.push(0),
            Kind::Stdout => return bytes.push(1),
            Kind::Stderr => return bytes.push(2),
            Kind::Open(file) => file,
        };
        bytes.push(if file.is_folder { 3 } else { 4 });
        bytes.push(u8::from(file.is_given));
        bytes.extend_from_slice(&file.folder.to_le_bytes());
        put(bytes, file.path.as_bytes());
        for number in [file.offset, file.rights, file.inheriting] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        bytes.extend_from_slice(&file.flags.to_le_bytes());
        if let Some(content) = &file.content {
            bytes.extend_from_slice(content.as_bytes());
        }
    }

    fn decode(bytes: &mut Bytes<'_>) -> Result<Self, HostStateError> {
        let number = bytes.u32()?;
        let tag = bytes.u8()?;
        let kind = match tag {
            0 => Kind::Stdin,
            1 => Kind::Stdout,
            2 => Kind::Stderr,
            3 | 4 => Kind::Open(FileState {
                is_folder: tag == 3,
                is_given: match bytes.u8()? {
                    0 => false,
                    1 => true,
                    _ => return Err(HostStateError::Malformed("a mark is neither 0 nor 1")),
                },
                folder: bytes.u32()?,
                path: text(bytes.run(PATH_BYTES_MAX)?)?,
                offset: bytes.u64()?,
                rights: bytes.u64()?,
                inheriting: bytes.u64()?,
                flags: bytes.u16()?,
                content: match tag {
                    3 => None,
                    _ => Some(Digest::from_bytes(bytes.array()?)),
                },
            }),
            _ => return Err(HostStateError::Malformed("a descriptor is of no known kind")),
        };
        Ok(Self { number, kind })
    }
}

fn count(bytes: &mut Vec<u8>, count: usize) {
    let count = u32::try_from(count).expect("the host's limits keep counts small");
    bytes.extend_from_slice(&count.to_le_bytes());
}

fn put(bytes: &mut Vec<u8>, run: &[u8]) {
    count(bytes, run.len());
    bytes.extend_from_slice(run);
}

fn text(bytes: &[u8]) -> Result<String, HostStateError> {
    let text = std::str::from_utf8(bytes).map_err(|_| HostStateError::Malformed("a text is not UTF-8"))?;
    if text.contains('\0') {
        return Err(HostStateError::Malformed("a text holds a zero byte"));
    }
    Ok(text.to_owned())
}

/// What is left to read.
struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], HostStateError> {
        let (taken, rest) = self
            .0
            .split_at_checked(length)
            .ok_or(HostStateError::Malformed("it ends too early"))?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], HostStateError> {
        let taken = self.take(N)?;
        Ok(std::array::from_fn(|index| taken[index]))
    }

    fn u8(&mut self) -> Result<u8, HostStateError> {
        self.array().map(|[byte]| byte)
    }

    fn u16(&mut self) -> Result<u16, HostStateError> {
        self.array().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Result<u32, HostStateError> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, HostStateError> {
        self.array().map(u64::from_le_bytes)
    }

    fn count(&mut self, max: usize) -> Result<usize, HostStateError> {
        let count = self.u32()? as usize;
        if count > max {
            return Err(HostStateError::Malformed("it has more of something than a host allows"));
        }
        Ok(count)
    }

    fn run(&mut self, max: usize) -> Result<&'a [u8], HostStateError> {
        let length = self.count(max)?;
        self.take(length)
    }

    fn texts(&mut self) -> Result<Vec<String>, HostStateError> {
        let count = self.count(TEXTS_MAX)?;
        (0..count).map(|_| text(self.run(TEXT_BYTES_MAX)?)).collect()
    }

    fn descriptors(&mut self) -> Result<Vec<DescriptorState>, HostStateError> {
        let count = self.count(DESCRIPTORS_MAX)?;
        let read = (0..count).map(|_| DescriptorState::decode(self));
        let read = read.collect::<Result<Vec<_>, _>>()?;
        if read.windows(2).any(|pair| pair[0].number >= pair[1].number) {
            return Err(HostStateError::Malformed("its descriptors do not rise"));
        }
        Ok(read)
    }
}
