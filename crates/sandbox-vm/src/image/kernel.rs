//! The kernel as an ELF file, which QEMU starts without the kernel's own unpacking: about a second sooner when that
//! would be translated.
//!
//! Layout of a bzImage: `Documentation/arch/x86/boot.rst` of the kernel.

use std::io::Read;

/// Largest kernel, unpacked.
pub const UNPACKED_BYTES_MAX: usize = 256 * 1024 * 1024;

/// Blocks of the legacy LZ4 format, which the kernel's build uses.
const LZ4_BLOCK_BYTES: usize = 8 * 1024 * 1024;

/// Why there is no ELF file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KernelError {
    #[error("it is no bzImage")]
    NotABzImage,
    /// The kernel can be started as it is, which takes longer.
    #[error("its compression is not known here")]
    Unknown,
    #[error("its packed part is damaged: {0}")]
    Damaged(String),
}

/// Unpacks the ELF file in a bzImage.
pub fn unpack(image: &[u8]) -> Result<Vec<u8>, KernelError> {
    let packed = payload(image).ok_or(KernelError::NotABzImage)?;
    let elf = match packed {
        [0x02, 0x21, 0x4c, 0x18, blocks @ ..] => lz4(blocks)?,
        [0x1f, 0x8b, ..] => read(flate2::read::GzDecoder::new(packed))?,
        [0x28, 0xb5, 0x2f, 0xfd, ..] => {
            let decoder = zstd::stream::read::Decoder::with_buffer(packed);
            read(
                decoder
                    .map_err(|error| KernelError::Damaged(error.to_string()))?
                    .single_frame(),
            )?
        }
        _ => return Err(KernelError::Unknown),
    };
    if elf.starts_with(b"\x7fELF") {
        Ok(elf)
    } else {
        Err(KernelError::Damaged("no ELF file is in it".to_owned()))
    }
}

/// The packed part; its last four bytes, which tell the size of what is in it, are left out.
fn payload(image: &[u8]) -> Option<&[u8]> {
    const SETUP_SECTORS: usize = 0x1f1;
    const MAGIC: usize = 0x202;
    const VERSION: usize = 0x206;
    const PAYLOAD: usize = 0x248;
    if image.get(MAGIC..MAGIC + 4)? != b"HdrS" {
        return None;
    }
    let word = |at: usize| Some(u32::from_le_bytes(image.get(at..at + 4)?.try_into().ok()?) as usize);
    if word(VERSION)? & 0xffff < 0x208 {
        return None;
    }
    let sectors = match *image.get(SETUP_SECTORS)? {
        0 => 4,
        count => usize::from(count),
    };
    let start = (sectors + 1).checked_mul(512)?.checked_add(word(PAYLOAD)?)?;
    let length = word(PAYLOAD + 4)?.checked_sub(4)?;
    image.get(start..start.checked_add(length)?)
}

fn lz4(mut blocks: &[u8]) -> Result<Vec<u8>, KernelError> {
    let mut elf = Vec::new();
    let mut block = vec![0; LZ4_BLOCK_BYTES];
    while !blocks.is_empty() {
        let cut_off = || KernelError::Damaged("it is cut off".to_owned());
        let (size, rest) = blocks.split_first_chunk().ok_or_else(cut_off)?;
        let size = u32::from_le_bytes(*size) as usize;
        let packed = rest.get(..size).ok_or_else(cut_off)?;
        let count = lz4_flex::block::decompress_into(packed, &mut block);
        let count = count.map_err(|error| KernelError::Damaged(error.to_string()))?;
        if elf.len() + count > UNPACKED_BYTES_MAX {
            return Err(KernelError::Damaged(format!(
                "it is larger than {UNPACKED_BYTES_MAX} bytes"
            )));
        }
        elf.extend_from_slice(&block[..count]);
        blocks = &rest[size..];
    }
    Ok(elf)
}

fn read(packed: impl Read) -> Result<Vec<u8>, KernelError> {
    let mut elf = Vec::new();
    let read = packed.take(UNPACKED_BYTES_MAX as u64 + 1).read_to_end(&mut elf);
    read.map_err(|error| KernelError::Damaged(error.to_string()))?;
    if elf.len() > UNPACKED_BYTES_MAX {
        return Err(KernelError::Damaged(format!(
            "it is larger than {UNPACKED_BYTES_MAX} bytes"
        )));
    }
    Ok(elf)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    const ELF: &[u8] = b"\x7fELF and much more, and much more, and much more";

    fn image(packed: &[u8]) -> Vec<u8> {
        let mut image = vec![0; 1024];
        image[0x1f1] = 1;
        image[0x202..0x206].copy_from_slice(b"HdrS");
        image[0x206..0x208].copy_from_slice(&[0x0f, 0x02]);
        image[0x248..0x24c].copy_from_slice(&0_u32.to_le_bytes());
        let length = u32::try_from(packed.len() + 4).unwrap();
        image[0x24c..0x250].copy_from_slice(&length.to_le_bytes());
        image.extend_from_slice(packed);
        image.extend_from_slice(&[0; 4]);
        image
    }

    fn lz4_of(text: &[u8]) -> Vec<u8> {
        let block = lz4_flex::block::compress(text);
        let size = u32::try_from(block.len()).unwrap();
        [&[0x02, 0x21, 0x4c, 0x18][..], &size.to_le_bytes(), &block].concat()
    }

    #[test]
    fn each_compression_gives_the_same_kernel() {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(ELF).unwrap();
        let packed = [lz4_of(ELF), gzip.finish().unwrap(), zstd::encode_all(ELF, 1).unwrap()];
        for packed in packed {
            assert_eq!(unpack(&image(&packed)).unwrap(), ELF);
        }
    }

    #[test]
    fn what_is_no_kernel_is_refused() {
        assert_eq!(unpack(b""), Err(KernelError::NotABzImage));
        assert_eq!(unpack(&[0; 4096]), Err(KernelError::NotABzImage));
        assert_eq!(unpack(&image(b"\xfd7zXZ\0")), Err(KernelError::Unknown));
        let cut_off = image(&lz4_of(ELF)[..20]);
        assert!(matches!(unpack(&cut_off), Err(KernelError::Damaged(_))));
        assert!(matches!(unpack(&image(&lz4_of(b"text"))), Err(KernelError::Damaged(_))));
        let mut beyond = image(&lz4_of(ELF));
        beyond[0x24c..0x250].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(unpack(&beyond), Err(KernelError::NotABzImage));
    }
}
