//! Channels over one stream, and pieces that are none.

use super::*;

#[test]
fn pieces_come_out_as_they_went_in() {
    let pieces = [
        (1, Piece::Open),
        (1, Piece::Data(Bytes::from_static(b"ahoy"))),
        (7, Piece::Credit(512)),
        (1, Piece::Close),
    ];
    let mut out = BytesMut::new();
    for (channel, piece) in &pieces {
        put(&mut out, *channel, piece);
    }
    for cut in 0..out.len() {
        let mut read = BytesMut::from(&out[..cut]);
        let mut found = Vec::new();
        found.extend(std::iter::from_fn(|| take(&mut read).unwrap()));
        read.extend_from_slice(&out[cut..]);
        found.extend(std::iter::from_fn(|| take(&mut read).unwrap()));
        assert_eq!(found, pieces, "cut at {cut}");
    }
    for (bytes, error) in [
        (&[0, 0, 0, 0, 9, 0, 0, 0, 0], MuxError::Kind(9)),
        (&[0, 0, 0, 0, 1, 0, 0, 0, 0], MuxError::Length { kind: 1, length: 0 }),
        (
            &[0, 0, 0, 0, 1, 1, 128, 0, 0],
            MuxError::Length {
                kind: 1,
                length: DATA_BYTES_MAX + 1,
            },
        ),
        (&[0, 0, 0, 0, 2, 5, 0, 0, 0], MuxError::Length { kind: 2, length: 5 }),
    ] {
        assert_eq!(take(&mut BytesMut::from(&bytes[..])), Err(error));
    }
}

fn pair() -> (MuxDial, MuxAccept) {
    let (near, far) = tokio::io::duplex(1024);
    (dialer(near), acceptor(far))
}

#[tokio::test]
async fn channels_do_not_hold_each_other_up() {
    let (dial, mut accept) = pair();
    let mut stalled = dial.dial().await.unwrap();
    let _unread = accept.accept().await.unwrap();
    // More than the window and all buffers hold: nobody reads it.
    let flood = tokio::spawn(async move { stalled.write_all(&vec![7; 4 * WINDOW]).await });
    for number in 0..20u8 {
        let mut near = dial.dial().await.unwrap();
        let mut far = accept.accept().await.unwrap();
        let content = vec![number; 3 * WINDOW / 2];
        let sent = content.clone();
        let sending = tokio::spawn(async move {
            near.write_all(&sent).await.unwrap();
            near.shutdown().await.unwrap();
            let mut echo = Vec::new();
            near.read_to_end(&mut echo).await.unwrap();
            echo
        });
        let mut received = Vec::new();
        far.read_to_end(&mut received).await.unwrap();
        assert!(received == content, "channel {number}");
        far.write_all(b"done").await.unwrap();
        drop(far);
        assert_eq!(sending.await.unwrap(), b"done");
    }
    assert!(!flood.is_finished(), "the control: the unread channel is held back");
    flood.abort();
}

#[tokio::test]
async fn a_stream_that_ends_ends_all_its_channels() {
    let (near, far) = tokio::io::duplex(1024);
    let dial = dialer(near);
    let mut channel = dial.dial().await.unwrap();
    drop(far);
    assert_eq!(channel.read(&mut [0; 8]).await.unwrap(), 0);
    while dial.dial().await.is_ok() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_side_that_sends_more_than_its_window_is_cut_off() {
    let (near, mut far) = tokio::io::duplex(4096);
    let mut accept = acceptor(near);
    let mut out = BytesMut::new();
    put(&mut out, 1, &Piece::Open);
    far.write_all(&out).await.unwrap();
    let _unread = accept.accept().await.unwrap();
    out.clear();
    put(&mut out, 1, &Piece::Data(Bytes::from(vec![0; DATA_BYTES_MAX])));
    let flood = async { while far.write_all(&out).await.is_ok() {} };
    tokio::time::timeout(std::time::Duration::from_secs(10), flood)
        .await
        .expect("it is cut off");
    assert!(accept.accept().await.is_err());
}

#[tokio::test]
async fn a_side_that_reads_nothing_of_what_it_asks_for_is_cut_off() {
    let (near, mut far) = tokio::io::duplex(4096);
    let mut accept = acceptor(near);
    // Each channel is closed at once, and its end said.
    let accepting = tokio::spawn(async move { while accept.accept().await.is_ok() {} });
    let mut sent = 0;
    let flood = async {
        let mut out = BytesMut::new();
        for number in 1.. {
            put(&mut out, number, &Piece::Open);
            put(&mut out, number, &Piece::Close);
            if far.write_all_buf(&mut out).await.is_err() {
                return;
            }
            sent += 1;
        }
    };
    let cut_off = tokio::time::timeout(std::time::Duration::from_secs(30), flood).await;
    cut_off.expect("it is cut off");
    assert!(sent * HEAD_BYTES > OUT_BYTES_MAX, "the control: so much may wait");
    accepting.await.unwrap();
}

#[tokio::test]
async fn a_stream_that_nobody_uses_ends() {
    let (near, mut far) = tokio::io::duplex(1024);
    let dial = dialer(near);
    let mut channel = dial.dial().await.unwrap();
    drop(dial);
    channel.write_all(b"last").await.unwrap();
    let mut read = vec![0; 2 * HEAD_BYTES + 4];
    far.read_exact(&mut read).await.unwrap();
    assert!(read.ends_with(b"last"), "the control: one channel is enough");
    channel.write_all(b"words").await.unwrap();
    drop(channel);
    let mut rest = Vec::new();
    far.read_to_end(&mut rest).await.unwrap();
    let pieces: Vec<_> = std::iter::from_fn({
        let mut rest = BytesMut::from(&rest[..]);
        move || take(&mut rest).unwrap()
    })
    .collect();
    assert_eq!(
        pieces,
        [(1, Piece::Data(Bytes::from_static(b"words"))), (1, Piece::Close)],
        "all of it was written first"
    );
}

/// Bytes that are in memory as long as somebody holds them.
struct Held {
    _buffer: Arc<()>,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        b"7"
    }
}

#[tokio::test]
async fn what_comes_in_tiny_pieces_holds_no_more_than_its_bytes() {
    let (near, _far) = tokio::io::duplex(1024);
    let user = start(near, None);
    let shared = user.0.clone();
    let mut channel = shared.begin(1, &user).unwrap();
    let buffer = Arc::new(());
    let piece = || {
        Piece::Data(Bytes::from_owner(Held {
            _buffer: buffer.clone(),
        }))
    };
    let control = piece();
    assert_eq!(Arc::strong_count(&buffer), 2, "the control: a piece holds its buffer");
    drop(control);
    for _ in 0..WINDOW {
        shared.take(1, piece()).unwrap();
    }
    assert_eq!(Arc::strong_count(&buffer), 1, "no buffer is held");
    assert_eq!(shared.take(1, piece()), Err(MuxError::Window(1)));
    let mut read = vec![0; WINDOW];
    channel.read_exact(&mut read).await.unwrap();
    assert!(read.iter().all(|byte| *byte == b'7'), "all of it comes");
}

#[tokio::test]
async fn after_a_halt_another_dialer_goes_on_with_the_same_other_side() {
    let (near, far) = std::os::unix::net::UnixStream::pair().unwrap();
    let stream = |stream: std::os::unix::net::UnixStream| {
        stream.set_nonblocking(true).unwrap();
        tokio::net::UnixStream::from_std(stream).unwrap()
    };
    let dial = dialer(stream(near.try_clone().unwrap()));
    let mut accept = acceptor(stream(far));
    let mut before = dial.dial().await.unwrap();
    before.write_all(b"one").await.unwrap();
    let mut first = accept.accept().await.unwrap();
    first.read_exact(&mut [0; 3]).await.unwrap();
    let next = dial.halt().await;
    assert!(dial.dial().await.is_err(), "the first dialer has ended");
    assert_eq!(before.read(&mut [0; 8]).await.unwrap(), 0, "and so have its channels");

    let dial = dialer_from(stream(near), next);
    let mut after = dial.dial().await.unwrap();
    after.write_all(b"two").await.unwrap();
    let mut second = accept.accept().await.unwrap();
    let mut read = [0; 3];
    second.read_exact(&mut read).await.unwrap();
    assert_eq!(&read, b"two");
    // What the other side still says of the first channel is nobody's.
    first.write_all(b"late").await.unwrap();
    second.write_all(b"ok").await.unwrap();
    let mut read = [0; 2];
    after.read_exact(&mut read).await.unwrap();
    assert_eq!(&read, b"ok");
}

/// How many pieces of each channel have come.
type Taken = Arc<Mutex<Vec<usize>>>;

/// Channels that say as much as they can, for ever.
async fn talkers(count: usize, dial: &MuxDial, accept: &mut MuxAccept) -> Taken {
    let taken = Taken::new(Mutex::new(vec![0; count]));
    for number in 0..count {
        let (mut near, mut far) = (dial.dial().await.unwrap(), accept.accept().await.unwrap());
        tokio::spawn(async move {
            while near.write_all(&[7; DATA_BYTES_MAX]).await.is_ok() {
                tokio::task::yield_now().await;
            }
        });
        let taken = taken.clone();
        tokio::spawn(async move {
            let mut piece = vec![0; DATA_BYTES_MAX];
            while far.read_exact(&mut piece).await.is_ok() {
                taken.lock()[number] += 1;
            }
        });
    }
    taken
}

#[tokio::test]
async fn where_many_say_much_each_has_its_turn_and_a_small_word_goes_soon() {
    const TALKERS: usize = 64;
    let (near, far) = tokio::io::duplex(DATA_BYTES_MAX);
    let (dial, mut accept) = (dialer(near), acceptor(far));
    let mut quiet = dial.dial().await.unwrap();
    let mut quiet_end = accept.accept().await.unwrap();
    let taken = talkers(TALKERS, &dial, &mut accept).await;
    let all = || taken.lock().iter().sum::<usize>();
    for round in 1..=5 {
        while all() < round * 8 * TALKERS {
            tokio::task::yield_now().await;
        }
        let before = all();
        quiet.write_all(b"beat").await.unwrap();
        quiet_end.read_exact(&mut [0; 4]).await.unwrap();
        let meanwhile = all() - before;
        assert!(meanwhile < 4 * TALKERS, "{meanwhile} pieces came before it");
    }
    let taken = taken.lock().clone();
    let (least, most) = (taken.iter().min().unwrap(), taken.iter().max().unwrap());
    assert!(4 * least > *most, "{taken:?}");
}
