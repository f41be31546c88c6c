//! A whole machine as signed bytes: what it needs, and its state, compressed as it comes out of QEMU.
//!
//! ```text
//!   "BWLNVMCK" │ version: u32 │ state: a zstd frame │ label: JSON │ its length: u32 │ signature: 32 bytes
//! ```
//! Numbers are little endian. The signature is an HMAC-SHA256 of all that comes before. It is judged before anything is
//! unpacked: QEMU believes what it reads.

use std::io::{self, Read, Write};

use bowline_checkpoint::SigningKey;
use bowline_sandbox::MachineNeeds;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::machine::Machine;

/// The version that is written, and the only one that is read.
pub const VERSION: u32 = 1;

const MAGIC: &[u8; 8] = b"BWLNVMCK";
const HEAD_BYTES: usize = 12;
const LENGTH_BYTES: usize = 4;
const SIGNATURE_BYTES: usize = 32;
/// The longest label that is read.
const LABEL_BYTES_MAX: usize = 64 * 1024;
/// What devices and processors may take beside the memory.
const DEVICES_BYTES_MAX: u64 = 64 << 20;
/// How hard it is tried to make the state small: whoever waits for its memory waits for this.
const LEVEL: i32 = 1;
const PIECE_BYTES: usize = 256 * 1024;

/// What the bytes say of themselves. Durable: fields are only added.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Label {
    pub needs: MachineNeeds,
    pub machine: Machine,
    /// What it may use of the processors, in thousandths of one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_millis: Option<u32>,
    /// The invocation that runs in it: its request id.
    pub run: String,
    /// Of the last link that its agent has seen.
    pub epoch: u64,
    /// The first channel that its agent has not seen.
    pub channel: u32,
    /// Of the state, before it was compressed.
    pub state_bytes: u64,
}

/// Why bytes are no machine.
#[derive(Debug, thiserror::Error)]
pub enum FrozenError {
    #[error("these bytes are no virtual machine: they do not begin with `BWLNVMCK`")]
    NotAMachine,
    #[error("the virtual machine has format version `{0}`, this node reads version `{VERSION}`")]
    Version(u32),
    #[error("the virtual machine's signature does not match: it was changed, or signed with another key")]
    Signature,
    #[error("the virtual machine is malformed: {0}")]
    Malformed(String),
}

/// A state that was compressed.
#[derive(Debug)]
pub struct Packed {
    out: Vec<u8>,
    state_bytes: u64,
}

/// Compresses all that `state` gives.
pub fn pack(mut state: impl Read, state_bytes_max: u64) -> io::Result<Packed> {
    let mut out = MAGIC.to_vec();
    out.extend_from_slice(&VERSION.to_le_bytes());
    let mut encoder = zstd::Encoder::new(out, LEVEL)?;
    let mut piece = vec![0; PIECE_BYTES];
    let mut state_bytes = 0;
    loop {
        let count = state.read(&mut piece)?;
        if count == 0 {
            break;
        }
        state_bytes += count as u64;
        if state_bytes > state_bytes_max {
            let text = format!("the state is larger than `{state_bytes_max}` bytes");
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, text));
        }
        encoder.write_all(&piece[..count])?;
    }
    let out = encoder.finish()?;
    Ok(Packed { out, state_bytes })
}

impl Packed {
    /// Of the state, before it was compressed.
    pub fn state_bytes(&self) -> u64 {
        self.state_bytes
    }

    /// Adds the label and the signature.
    pub fn seal(self, label: &Label, key: &SigningKey) -> Bytes {
        let mut out = self.out;
        let label = serde_json::to_vec(label).expect("a label has text keys and finite numbers only");
        out.extend_from_slice(&label);
        let length = u32::try_from(label.len()).expect("a label is short");
        out.extend_from_slice(&length.to_le_bytes());
        let signature = key.sign(&out);
        out.extend_from_slice(&signature);
        out.into()
    }
}

/// The most that the state of such a machine takes.
pub fn state_bytes_max(machine: &Machine) -> u64 {
    // Each page has a few bytes around it.
    let memory = machine.memory_max.bytes();
    memory + memory / 64 + DEVICES_BYTES_MAX
}

/// Signed bytes that were found to be a machine.
#[derive(Clone, Debug)]
pub struct Frozen {
    pub label: Label,
    state: Bytes,
}

impl Frozen {
    pub fn open(bytes: &Bytes, key: &SigningKey) -> Result<Self, FrozenError> {
        if !bytes.starts_with(MAGIC) {
            return Err(FrozenError::NotAMachine);
        }
        let signed = bytes.len().checked_sub(SIGNATURE_BYTES).ok_or(FrozenError::Signature)?;
        if !key.verifies(&bytes[..signed], &bytes[signed..]) {
            return Err(FrozenError::Signature);
        }
        let short = || FrozenError::Malformed("it ends too early".to_owned());
        let version = bytes[MAGIC.len()..signed].first_chunk().ok_or_else(short)?;
        let version = u32::from_le_bytes(*version);
        if version != VERSION {
            return Err(FrozenError::Version(version));
        }
        let (rest, length) = bytes[HEAD_BYTES..signed]
            .split_last_chunk::<LENGTH_BYTES>()
            .ok_or_else(short)?;
        let length = u32::from_le_bytes(*length) as usize;
        let at = rest.len().checked_sub(length).filter(|_| length <= LABEL_BYTES_MAX);
        let at = at.ok_or_else(|| FrozenError::Malformed(format!("a label of `{length}` bytes")))?;
        let label: Label =
            serde_json::from_slice(&rest[at..]).map_err(|error| FrozenError::Malformed(error.to_string()))?;
        if let Some(fault) = label.machine.fault() {
            return Err(FrozenError::Malformed(fault));
        }
        if label.state_bytes > state_bytes_max(&label.machine) {
            let text = format!("a state of `{}` bytes is too large for its machine", label.state_bytes);
            return Err(FrozenError::Malformed(text));
        }
        Ok(Self {
            label,
            state: bytes.slice(HEAD_BYTES..HEAD_BYTES + at),
        })
    }

    /// Writes the state to `out`, as it came out of QEMU.
    pub fn unpack(&self, mut out: impl Write) -> io::Result<()> {
        let mut decoder = zstd::Decoder::with_buffer(&self.state[..])?;
        let mut piece = vec![0; PIECE_BYTES];
        let mut left = self.label.state_bytes;
        loop {
            let count = decoder.read(&mut piece)?;
            if count == 0 && left == 0 {
                return out.flush();
            }
            left = match (count, left.checked_sub(count as u64)) {
                (1.., Some(left)) => left,
                _ => {
                    let text = format!("the state has another size than `{}` bytes", self.label.state_bytes);
                    return Err(io::Error::new(io::ErrorKind::InvalidData, text));
                }
            };
            out.write_all(&piece[..count])?;
        }
    }
}

#[cfg(test)]
mod tests {
    use bowline_foundation::units::Mebibytes;

    use super::*;

    fn key() -> SigningKey {
        SigningKey::new(&[7; 32])
    }

    fn label(state_bytes: u64) -> Label {
        Label {
            needs: MachineNeeds {
                machine: "microvm".to_owned(),
                processors: 1,
                memory_mib: 256,
                accelerator: "kvm".to_owned(),
                processor: "Some CPU".to_owned(),
                features: vec!["avx2".to_owned(), "sse".to_owned()],
                qemu: "7.2.22".to_owned(),
                image: "0123".to_owned(),
                tsc_khz: Some(2_600_000),
            },
            machine: Machine::micro(Mebibytes(256)),
            cpu_millis: Some(500),
            run: "01234567-89ab-4cde-8f01-23456789abcd".to_owned(),
            epoch: 3,
            channel: 9,
            state_bytes,
        }
    }

    fn state() -> Vec<u8> {
        (0..300_000u32)
            .flat_map(|number| (number / 1000).to_le_bytes())
            .collect()
    }

    fn unpacked(bytes: &Bytes) -> io::Result<Vec<u8>> {
        let mut out = Vec::new();
        let frozen = Frozen::open(bytes, &key()).map_err(io::Error::other)?;
        frozen.unpack(&mut out).map(|()| out)
    }

    #[test]
    fn a_machine_survives_its_bytes_and_no_byte_of_it_can_be_another() {
        let packed = pack(&state()[..], u64::MAX).unwrap();
        let label = label(packed.state_bytes());
        let bytes = packed.seal(&label, &key());
        assert!(bytes.len() < state().len() / 10, "it is compressed: {}", bytes.len());
        assert_eq!(Frozen::open(&bytes, &key()).unwrap().label, label);
        assert_eq!(unpacked(&bytes).unwrap(), state());
        for at in (0..bytes.len()).step_by(13) {
            let mut other = bytes.to_vec();
            other[at] ^= 0x10;
            let refused = Frozen::open(&other.into(), &key()).unwrap_err();
            let is_head = at < MAGIC.len();
            assert_eq!(matches!(refused, FrozenError::NotAMachine), is_head, "{at}: {refused}");
            assert_eq!(matches!(refused, FrozenError::Signature), !is_head, "{at}: {refused}");
        }
        assert!(matches!(
            Frozen::open(&bytes, &SigningKey::new(&[8; 32])),
            Err(FrozenError::Signature)
        ));
    }

    /// The format as it is in the stores of nodes that run.
    #[test]
    fn a_machine_is_read_as_it_was_written_once() {
        let golden = Bytes::from_static(include_bytes!("frozen/golden-1.bin"));
        assert_eq!(Frozen::open(&golden, &key()).unwrap().label, label(5));
        assert_eq!(unpacked(&golden).unwrap(), b"state");
    }

    #[test]
    fn what_a_signer_wrote_wrong_is_refused() {
        let sealed = |change: &dyn Fn(&mut Label)| {
            let mut label = label(5);
            change(&mut label);
            pack(&b"state"[..], 5).unwrap().seal(&label, &key())
        };
        assert_eq!(unpacked(&sealed(&|_| {})).unwrap(), b"state", "the control");
        for wrong in [4, 6] {
            let refused = unpacked(&sealed(&|label| label.state_bytes = wrong)).unwrap_err();
            assert!(refused.to_string().contains("another size"), "{refused}");
        }
        let refused = unpacked(&sealed(&|label| label.state_bytes = 1 << 40)).unwrap_err();
        assert!(refused.to_string().contains("too large"), "{refused}");
        let refused = unpacked(&sealed(&|label| label.machine.processors = 0)).unwrap_err();
        assert!(refused.to_string().contains("processors"), "{refused}");
        assert!(pack(&b"state"[..], 4).unwrap_err().to_string().contains("larger"));

        let mut later = sealed(&|_| {}).to_vec();
        later.truncate(later.len() - SIGNATURE_BYTES);
        later[MAGIC.len()] = 2;
        let signature = key().sign(&later);
        later.extend_from_slice(&signature);
        assert!(matches!(
            Frozen::open(&later.into(), &key()),
            Err(FrozenError::Version(2))
        ));
    }
}
