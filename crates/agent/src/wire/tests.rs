//! Frames and pieces of them, whole, cut and wrong.

use super::*;

fn read(bytes: &[u8]) -> Result<Vec<Frame>, WireError> {
    let mut read = BytesMut::from(bytes);
    let mut frames = Vec::new();
    while let Some(frame) = take(&mut read)? {
        frames.push(frame);
    }
    Ok(frames)
}

#[test]
fn frames_come_out_as_they_went_in_however_they_are_cut() {
    let mut out = BytesMut::new();
    put(&mut out, Kind::Log, |out| out.extend_from_slice(b"ahoy"));
    put(&mut out, Kind::Idle, |_| {});
    let whole = read(&out).unwrap();
    assert_eq!(whole.len(), 2);
    assert_eq!((whole[0].kind, &whole[0].body[..]), (Kind::Log, &b"ahoy"[..]));
    assert_eq!((whole[1].kind, whole[1].body.len()), (Kind::Idle, 0));
    for cut in 0..out.len() {
        let mut buffer = BytesMut::from(&out[..cut]);
        let mut frames = Vec::new();
        while let Some(frame) = take(&mut buffer).unwrap() {
            frames.push(frame);
        }
        buffer.extend_from_slice(&out[cut..]);
        while let Some(frame) = take(&mut buffer).unwrap() {
            frames.push(frame);
        }
        assert_eq!(frames, whole, "cut at {cut}");
    }
}

#[test]
fn what_is_no_frame_is_refused_before_it_is_kept() {
    let too_long = u32::try_from(FRAME_BYTES_MAX + 1).unwrap();
    let mut longest = BytesMut::from(&(too_long - 1).to_le_bytes()[..]);
    longest.extend_from_slice(&[Kind::Log as u8]);
    assert_eq!(
        read(&longest),
        Ok(Vec::new()),
        "the control: the longest one is waited for"
    );
    for (bytes, error) in [
        (
            &too_long.to_le_bytes()[..],
            WireError::Length {
                actual: FRAME_BYTES_MAX + 1,
            },
        ),
        (&[0, 0, 0, 0][..], WireError::Length { actual: 0 }),
        (&[1, 0, 0, 0, 200][..], WireError::Kind(200)),
    ] {
        assert_eq!(read(bytes), Err(error));
    }
}

#[tokio::test]
async fn an_end_between_frames_is_an_end_and_one_inside_is_an_error() {
    for (bytes, clean) in [(&[1u8, 0, 0, 0, 45][..], true), (&[2, 0, 0, 0, 45][..], false)] {
        let (near, mut far) = tokio::io::duplex(64);
        tokio::io::AsyncWriteExt::write_all(&mut far, bytes).await.unwrap();
        drop(far);
        let mut framed = Framed::new(Box::new(near));
        if clean {
            assert_eq!(framed.next().await.unwrap().unwrap().kind, Kind::Idle);
            assert!(framed.next().await.unwrap().is_none());
        } else {
            assert_eq!(framed.next().await.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        }
    }
}
