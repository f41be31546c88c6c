//! Requests of a guest's kernel: each is read whole, or refused.

use std::ffi::CStr;

use rustix::fs::OFlags;
use rustix::io::Errno;

use super::{FuseError, REQUEST_BYTES_MAX, REQUEST_HEAD_BYTES, length};

/// The longest name of one file.
const NAME_BYTES_MAX: usize = 255;

/// A file as the guest's kernel calls it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct NodeId(pub u64);

/// An open file or folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct HandleId(pub u64);

/// What is said of each request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Its answer has the same.
    pub unique: u64,
    pub node: NodeId,
    /// Whose program asks, as the guest's kernel numbers users.
    pub user: u32,
    pub group: u32,
}

/// What is wanted of the head's node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request<'a> {
    Init {
        major: u32,
        readahead_bytes: u32,
    },
    Lookup {
        name: &'a CStr,
    },
    Forget(Vec<(NodeId, u64)>),
    Attributes,
    Change(Change),
    ReadLink,
    SymLink {
        name: &'a CStr,
        target: &'a CStr,
    },
    MakeFile {
        name: &'a CStr,
        mode: u32,
    },
    MakeFolder {
        name: &'a CStr,
        mode: u32,
    },
    Remove {
        name: &'a CStr,
    },
    RemoveFolder {
        name: &'a CStr,
    },
    Rename {
        name: &'a CStr,
        to: NodeId,
        to_name: &'a CStr,
        flags: u32,
    },
    Link {
        from: NodeId,
        name: &'a CStr,
    },
    Open {
        flags: OFlags,
    },
    Create {
        name: &'a CStr,
        flags: OFlags,
        mode: u32,
    },
    Read(Range),
    Write {
        handle: HandleId,
        offset: u64,
        data: &'a [u8],
    },
    Space,
    Release {
        handle: HandleId,
    },
    Sync {
        handle: HandleId,
    },
    OpenFolder,
    ReadFolder(Range),
    Access {
        mask: u32,
    },
    Allocate {
        handle: HandleId,
        offset: u64,
        bytes: u64,
        flags: u32,
    },
    Lock,
    Destroy,
    /// Another one; a kernel does without.
    Unknown,
}

/// What is to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    pub handle: HandleId,
    pub offset: u64,
    pub bytes: usize,
}

/// What is to be changed of a file's attributes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    pub handle: Option<HandleId>,
    pub mode: Option<u32>,
    pub user: Option<u32>,
    pub group: Option<u32>,
    pub size: Option<u64>,
    pub accessed: Option<Time>,
    pub modified: Option<Time>,
}

/// A time that a file gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Time {
    Now,
    At { seconds: u64, nanoseconds: u32 },
}

impl Request<'_> {
    /// Whether it changes anything in the folder.
    pub fn is_change(&self) -> bool {
        match self {
            Self::Open { flags } => !is_reading(*flags),
            Self::Change(_)
            | Self::SymLink { .. }
            | Self::MakeFile { .. }
            | Self::MakeFolder { .. }
            | Self::Remove { .. }
            | Self::RemoveFolder { .. }
            | Self::Rename { .. }
            | Self::Link { .. }
            | Self::Create { .. }
            | Self::Write { .. }
            | Self::Allocate { .. } => true,
            _ => false,
        }
    }
}

fn is_reading(flags: OFlags) -> bool {
    flags & OFlags::ACCMODE == OFlags::RDONLY && !flags.contains(OFlags::TRUNC)
}

/// Reads a request. What no kernel would send is an error of the whole connection; a body that is not what it should be is
/// one of this request.
pub fn parse(bytes: &[u8]) -> Result<(Head, Result<Request<'_>, Errno>), FuseError> {
    let bounds = (REQUEST_HEAD_BYTES, REQUEST_BYTES_MAX);
    let wrong = || FuseError::Length {
        actual: bytes.len(),
        min: bounds.0,
        max: bounds.1,
    };
    let first = bytes.first_chunk().ok_or_else(wrong)?;
    if length(*first, bounds)? != bytes.len() {
        return Err(wrong());
    }
    let mut fields = Fields(&bytes[first.len()..]);
    let (opcode, head) = head(&mut fields).map_err(|_| wrong())?;
    Ok((head, body(opcode, head.node, &mut fields)))
}

fn head(fields: &mut Fields<'_>) -> Result<(u32, Head), Errno> {
    let opcode = fields.u32()?;
    let head = Head {
        unique: fields.u64()?,
        node: NodeId(fields.u64()?),
        user: fields.u32()?,
        group: fields.u32()?,
    };
    // The process, and what is said of extensions that are not asked for.
    fields.skip(8)?;
    Ok((opcode, head))
}

fn body<'a>(opcode: u32, node: NodeId, fields: &mut Fields<'a>) -> Result<Request<'a>, Errno> {
    Ok(match opcode {
        1 => Request::Lookup { name: fields.name()? },
        2 => Request::Forget(vec![(node, fields.u64()?)]),
        3 => Request::Attributes,
        4 => Request::Change(change(fields)?),
        5 => Request::ReadLink,
        6 => Request::SymLink {
            name: fields.name()?,
            target: fields.text()?,
        },
        8 => make_file(fields)?,
        9 => {
            let mode = fields.u32()?;
            fields.skip(4)?;
            Request::MakeFolder {
                name: fields.name()?,
                mode,
            }
        }
        10 => Request::Remove { name: fields.name()? },
        11 => Request::RemoveFolder { name: fields.name()? },
        12 => rename(fields, |_| Ok(0))?,
        13 => Request::Link {
            from: NodeId(fields.u64()?),
            name: fields.name()?,
        },
        14 => Request::Open { flags: flags(fields)? },
        15 => Request::Read(range(fields)?),
        16 => write(fields)?,
        17 => Request::Space,
        18 | 29 => Request::Release {
            handle: HandleId(fields.u64()?),
        },
        20 | 30 => Request::Sync {
            handle: HandleId(fields.u64()?),
        },
        26 => Request::Init {
            major: fields.u32()?,
            readahead_bytes: fields.after(4)?.u32()?,
        },
        27 => Request::OpenFolder,
        28 => Request::ReadFolder(range(fields)?),
        31..=33 => Request::Lock,
        34 => Request::Access { mask: fields.u32()? },
        35 => {
            let (flags, mode) = (flags(fields)?, fields.u32()?);
            Request::Create {
                name: fields.after(8)?.name()?,
                flags,
                mode,
            }
        }
        38 => Request::Destroy,
        42 => Request::Forget(forgotten(fields)?),
        43 => Request::Allocate {
            handle: HandleId(fields.u64()?),
            offset: fields.u64()?,
            bytes: fields.u64()?,
            flags: fields.u32()?,
        },
        45 => rename(fields, |fields| {
            let flags = fields.u32()?;
            fields.skip(4)?;
            Ok(flags)
        })?,
        _ => Request::Unknown,
    })
}

fn flags(fields: &mut Fields<'_>) -> Result<OFlags, Errno> {
    Ok(OFlags::from_bits_retain(fields.u32()?))
}

fn make_file<'a>(fields: &mut Fields<'a>) -> Result<Request<'a>, Errno> {
    let mode = fields.u32()?;
    // The device that it would be, and the mask that the kernel has applied.
    Ok(Request::MakeFile {
        name: fields.after(12)?.name()?,
        mode,
    })
}

fn rename<'a>(
    fields: &mut Fields<'a>,
    flags: impl FnOnce(&mut Fields<'a>) -> Result<u32, Errno>,
) -> Result<Request<'a>, Errno> {
    let to = NodeId(fields.u64()?);
    let flags = flags(fields)?;
    Ok(Request::Rename {
        name: fields.name()?,
        to,
        to_name: fields.name()?,
        flags,
    })
}

fn range(fields: &mut Fields<'_>) -> Result<Range, Errno> {
    Ok(Range {
        handle: HandleId(fields.u64()?),
        offset: fields.u64()?,
        bytes: fields.u32()? as usize,
    })
}

fn write<'a>(fields: &mut Fields<'a>) -> Result<Request<'a>, Errno> {
    let Range { handle, offset, bytes } = range(fields)?;
    let data = fields.after(20)?.0;
    match data.len() == bytes {
        true => Ok(Request::Write { handle, offset, data }),
        false => Err(Errno::INVAL),
    }
}

fn forgotten(fields: &mut Fields<'_>) -> Result<Vec<(NodeId, u64)>, Errno> {
    let count = fields.u32()?;
    fields.skip(4)?;
    // No more than there are bytes of them.
    (0..count).map(|_| Ok((NodeId(fields.u64()?), fields.u64()?))).collect()
}

fn change(fields: &mut Fields<'_>) -> Result<Change, Errno> {
    let valid = fields.u32()?;
    let has = |bit: u32| valid & 1 << bit != 0;
    fields.skip(4)?;
    let (handle, size) = (HandleId(fields.u64()?), fields.u64()?);
    // The owner of a lock.
    fields.skip(8)?;
    let (accessed, modified) = (fields.u64()?, fields.u64()?);
    fields.skip(8)?;
    let (accessed_part, modified_part) = (fields.u32()?, fields.u32()?);
    fields.skip(4)?;
    let mode = fields.u32()?;
    fields.skip(4)?;
    let (user, group) = (fields.u32()?, fields.u32()?);
    let time = |bit: u32, now: u32, seconds, nanoseconds| match (has(bit), has(now)) {
        (_, true) => Some(Time::Now),
        (true, false) => Some(Time::At { seconds, nanoseconds }),
        (false, false) => None,
    };
    Ok(Change {
        handle: has(6).then_some(handle),
        mode: has(0).then_some(mode),
        user: has(1).then_some(user),
        group: has(2).then_some(group),
        size: has(3).then_some(size),
        accessed: time(4, 7, accessed, accessed_part),
        modified: time(5, 8, modified, modified_part),
    })
}

/// What is left of a request.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], Errno> {
        let (now, rest) = self.0.split_first_chunk().ok_or(Errno::INVAL)?;
        self.0 = rest;
        Ok(*now)
    }

    fn u32(&mut self) -> Result<u32, Errno> {
        self.take().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, Errno> {
        self.take().map(u64::from_le_bytes)
    }

    fn skip(&mut self, bytes: usize) -> Result<(), Errno> {
        self.0 = self.0.get(bytes..).ok_or(Errno::INVAL)?;
        Ok(())
    }

    fn after(&mut self, bytes: usize) -> Result<&mut Self, Errno> {
        self.skip(bytes)?;
        Ok(self)
    }

    fn text(&mut self) -> Result<&'a CStr, Errno> {
        let text = CStr::from_bytes_until_nul(self.0).map_err(|_| Errno::INVAL)?;
        self.skip(text.count_bytes() + 1)?;
        Ok(text)
    }

    /// The name of one file in a folder, which leads nowhere else.
    fn name(&mut self) -> Result<&'a CStr, Errno> {
        let name = self.text()?;
        match name.to_bytes() {
            b"" | b"." | b".." => Err(Errno::INVAL),
            name if name.contains(&b'/') => Err(Errno::INVAL),
            name if name.len() > NAME_BYTES_MAX => Err(Errno::NAMETOOLONG),
            _ => Ok(name),
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A request as a kernel would say it.
    pub fn raw(opcode: u32, node: NodeId, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(REQUEST_HEAD_BYTES + body.len()).unwrap();
        let mut bytes = length.to_le_bytes().to_vec();
        bytes.extend(opcode.to_le_bytes());
        bytes.extend(7_u64.to_le_bytes());
        bytes.extend(node.0.to_le_bytes());
        bytes.extend(4000_u32.to_le_bytes());
        bytes.extend(5000_u32.to_le_bytes());
        bytes.extend([0; 8]);
        bytes.extend(body);
        bytes
    }

    fn parsed(opcode: u32, body: &[u8]) -> Result<Request<'static>, Errno> {
        let bytes = raw(opcode, NodeId(9), body).leak();
        let (head, request) = parse(bytes).unwrap();
        assert_eq!(
            (head.unique, head.node, head.user, head.group),
            (7, NodeId(9), 4000, 5000)
        );
        request
    }

    #[test]
    fn a_request_is_as_long_as_it_says_and_no_longer_than_the_limit() {
        let good = raw(17, NodeId(1), &[]);
        assert!(parse(&good).is_ok(), "the control");
        for cut in 0..good.len() {
            assert!(parse(&good[..cut]).is_err(), "{cut}");
        }
        assert!(parse(&[&good[..], &[0]].concat()).is_err());
        let most = raw(16, NodeId(1), &vec![0; REQUEST_BYTES_MAX - REQUEST_HEAD_BYTES]);
        assert!(parse(&most).is_ok(), "the control");
        let more = raw(16, NodeId(1), &vec![0; REQUEST_BYTES_MAX - REQUEST_HEAD_BYTES + 1]);
        assert!(matches!(
            parse(&more),
            Err(FuseError::Length {
                max: REQUEST_BYTES_MAX,
                ..
            })
        ));
    }

    #[test]
    fn names_lead_nowhere_else() {
        assert_eq!(parsed(1, b"file\0"), Ok(Request::Lookup { name: c"file" }));
        let longest = [vec![b'a'; NAME_BYTES_MAX], vec![0]].concat();
        assert!(parsed(1, &longest).is_ok(), "the control");
        let longer = [vec![b'a'; NAME_BYTES_MAX + 1], vec![0]].concat();
        assert_eq!(parsed(1, &longer), Err(Errno::NAMETOOLONG));
        for bad in [
            &b"\0"[..],
            b".\0",
            b"..\0",
            b"../x\0",
            b"/etc\0",
            b"a/b\0",
            b"unended",
            b"",
        ] {
            for (opcode, before) in [(1, 0), (8, 16), (9, 8), (10, 0), (13, 8), (35, 16)] {
                let body = [&vec![0; before][..], bad].concat();
                assert_eq!(parsed(opcode, &body), Err(Errno::INVAL), "{opcode} {bad:?}");
            }
            let rename = [&[0; 8], &b"good\0"[..], bad].concat();
            assert_eq!(parsed(12, &rename), Err(Errno::INVAL), "{bad:?}");
        }
    }

    #[test]
    fn what_a_change_does_not_name_is_left() {
        let mut body = [0; 88];
        assert!(matches!(
            parsed(4, &body),
            Ok(Request::Change(Change {
                handle: None,
                mode: None,
                size: None,
                accessed: None,
                ..
            }))
        ));
        body[0] = 1 << 3 | 1 << 6;
        body[1] = 1;
        body[8] = 3;
        body[16] = 200;
        let Ok(Request::Change(change)) = parsed(4, &body) else {
            panic!()
        };
        assert_eq!((change.handle, change.size), (Some(HandleId(3)), Some(200)));
        assert_eq!((change.accessed, change.modified), (None, Some(Time::Now)));
    }

    #[test]
    fn a_write_has_as_much_data_as_it_says() {
        let mut body = [0; 40];
        body[16] = 3;
        assert!(parsed(16, &[&body[..], b"abc"].concat()).is_ok(), "the control");
        assert_eq!(parsed(16, &[&body[..], b"ab"].concat()), Err(Errno::INVAL));
        assert_eq!(parsed(16, &[&body[..], b"abcd"].concat()), Err(Errno::INVAL));
        let many = [&8_u32.to_le_bytes()[..], &[0; 4], &[0; 16]].concat();
        assert_eq!(parsed(42, &many), Err(Errno::INVAL), "fewer nodes than it says");
    }
}
