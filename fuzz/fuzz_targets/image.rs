//! Archives of container images: any bytes are read or refused, and what is read stands in the archive.
#![no_main]

use std::io::{Read as _, Seek as _, SeekFrom, Write as _};

use bowline_foundation::digest::Digest;
use bowline_oci::{Image, Upload};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let mut file = tempfile::tempfile().expect("the machine has room");
    file.write_all(bytes).expect("the machine has room");
    file.seek(SeekFrom::Start(0)).expect("it is a file");
    let Ok(upload) = Upload::read(file, tempfile::tempfile) else {
        return;
    };
    let again = Image::read(upload.manifest(), upload.config()).expect("what was read once is read again");
    assert_eq!(again, upload.image);
    assert_eq!(upload.image.digest, Digest::of(upload.manifest()));
    for (layer, part) in upload.image.layers.iter().zip(upload.layers()) {
        let mut content = Vec::new();
        let read = part.clone().read_to_end(&mut content);
        assert!(read.is_ok() && content.len() as u64 == layer.bytes);
    }
});
