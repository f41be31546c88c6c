//! What a hostile kernel may ask for, and what an honest one gets.

use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use tempfile::TempDir;

use super::super::request::tests::raw;
use super::*;

const LOOKUP: u32 = 1;
const CHANGE: u32 = 4;
const SYMLINK: u32 = 6;
const MAKE_FILE: u32 = 8;
const MAKE_FOLDER: u32 = 9;
const REMOVE: u32 = 10;
const RENAME: u32 = 12;
const LINK: u32 = 13;
const OPEN: u32 = 14;
const READ: u32 = 15;
const WRITE: u32 = 16;
const RELEASE: u32 = 18;
const OPEN_FOLDER: u32 = 27;
const READ_FOLDER: u32 = 28;
const SET_LOCK: u32 = 32;
const CREATE: u32 = 35;

/// A folder in another one, in which nothing may ever change.
struct World {
    outside: TempDir,
    folder: Folder,
}

impl World {
    fn new(access: Access, limits: Limits) -> Self {
        let outside = tempfile::tempdir().unwrap();
        std::fs::write(outside.path().join("secret"), "secret").unwrap();
        let inside = outside.path().join("data");
        std::fs::create_dir(&inside).unwrap();
        let folder = fs::open(&inside, OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap();
        Self {
            outside,
            folder: Folder::new(folder, access, limits),
        }
    }

    fn open() -> Self {
        Self::new(Access::Write, Limits::default())
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.outside.path().join("data").join(name)
    }

    fn ask(&self, opcode: u32, node: NodeId, body: &[u8]) -> Result<Vec<u8>, Errno> {
        let answer = self.folder.perform(&raw(opcode, node, body)).unwrap().unwrap();
        let number = |at: usize| i32::from_le_bytes(*answer[at..].first_chunk().unwrap());
        assert_eq!(number(0), i32::try_from(answer.len()).unwrap());
        match -number(4) {
            0 => Ok(answer[16..].to_vec()),
            error => Err(Errno::from_raw_os_error(error)),
        }
    }

    fn look_up(&self, node: NodeId, name: &str) -> Result<NodeId, Errno> {
        self.ask(LOOKUP, node, &named(&[], name))
            .map(|entry| NodeId(long(&entry, 0)))
    }

    fn create(&self, name: &str) -> Result<(NodeId, u64), Errno> {
        let mut before = vec![0; 16];
        before[0] = 2;
        before[4..6].copy_from_slice(&0o4664_u16.to_le_bytes());
        let created = self.ask(CREATE, FOLDER, &named(&before, name))?;
        Ok((NodeId(long(&created, 0)), long(&created, 128)))
    }

    fn open_file(&self, node: NodeId, flags: OFlags) -> Result<u64, Errno> {
        let body = [flags.bits().to_le_bytes(), [0; 4]].concat();
        self.ask(OPEN, node, &body).map(|opened| long(&opened, 0))
    }

    fn write(&self, handle: u64, data: &[u8]) -> Result<Vec<u8>, Errno> {
        let mut body = range(handle, 0, data.len());
        body.extend(data);
        self.ask(WRITE, FOLDER, &body)
    }

    fn is_untouched(&self) {
        let names = std::fs::read_dir(self.outside.path()).unwrap().count();
        let secret = std::fs::read(self.outside.path().join("secret")).unwrap();
        assert_eq!((names, &secret[..]), (2, &b"secret"[..]));
    }
}

fn named(before: &[u8], name: &str) -> Vec<u8> {
    [before, name.as_bytes(), &[0]].concat()
}

fn long(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(*bytes[at..].first_chunk().unwrap())
}

fn range(handle: u64, offset: u64, bytes: usize) -> Vec<u8> {
    let mut body = [handle.to_le_bytes(), offset.to_le_bytes()].concat();
    body.extend(u32::try_from(bytes).unwrap().to_le_bytes());
    body.extend([0; 20]);
    body
}

#[test]
fn what_is_written_is_in_the_folder_and_is_read_by_all() {
    let world = World::open();
    assert_eq!(world.look_up(TOP, "data"), Ok(FOLDER));
    assert_eq!(world.look_up(TOP, "other"), Err(Errno::NOENT));
    let (node, handle) = world.create("file").unwrap();
    world.write(handle, b"written").unwrap();
    let path = world.path("file");
    assert_eq!(std::fs::read(&path).unwrap(), b"written");
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(
        mode & 0o7000,
        0,
        "no program of it runs with its owner's rights: {mode:o}"
    );
    std::fs::write(&path, "by another").unwrap();
    assert_eq!(world.ask(READ, node, &range(handle, 3, 100)).unwrap(), b"another");
    let entry = world.ask(LOOKUP, FOLDER, &named(&[], "file")).unwrap();
    assert_eq!(
        (&entry[8..40], long(&entry, 48)),
        (&[0; 32][..], 10),
        "nothing of it is to be kept"
    );
    assert_eq!(
        &entry[40 + 68..40 + 76],
        [4000_u32.to_le_bytes(), 5000_u32.to_le_bytes()].concat()
    );
}

#[test]
fn what_is_appended_comes_after_what_others_wrote() {
    let world = World::open();
    std::fs::write(world.path("file"), "mine").unwrap();
    let node = world.look_up(FOLDER, "file").unwrap();
    let handle = world.open_file(node, OFlags::WRONLY | OFlags::APPEND).unwrap();
    std::fs::write(world.path("file"), "mine, theirs").unwrap();
    world.write(handle, b", more").unwrap();
    assert_eq!(std::fs::read(world.path("file")).unwrap(), b"mine, theirs, more");
}

#[test]
fn links_lead_nowhere() {
    let world = World::open();
    let secret = world.outside.path().join("secret");
    symlink(&secret, world.path("absolute")).unwrap();
    symlink("../secret", world.path("relative")).unwrap();
    symlink("..", world.path("up")).unwrap();
    std::fs::write(world.path("own"), "own").unwrap();
    for name in ["absolute", "relative"] {
        let node = world.look_up(FOLDER, name).unwrap();
        assert_eq!(world.open_file(node, OFlags::RDWR), Err(Errno::PERM), "{name}");
        let mut size = vec![0; 88];
        size[0] = 1 << 3;
        assert_eq!(world.ask(CHANGE, node, &size), Err(Errno::PERM), "{name}");
        let mut before = vec![0; 16];
        before[0] = 1;
        let through = world.ask(CREATE, FOLDER, &named(&before, name));
        assert_eq!(through, Err(Errno::LOOP), "{name}");
    }
    let up = world.look_up(FOLDER, "up").unwrap();
    assert!(world.look_up(up, "secret").is_err());
    assert!(world.ask(MAKE_FOLDER, up, &named(&[0; 8], "new")).is_err());
    assert!(world.ask(REMOVE, up, &named(&[], "secret")).is_err());
    let mut rename = up.0.to_le_bytes().to_vec();
    rename.extend(b"own\0own\0");
    assert!(world.ask(RENAME, FOLDER, &rename).is_err());
    world.is_untouched();
    let own = world.look_up(FOLDER, "own").unwrap();
    assert!(world.open_file(own, OFlags::RDWR).is_ok(), "the control");
}

/// A folder that was found is exchanged for a link to the outside.
#[test]
fn a_folder_that_becomes_a_link_is_stale() {
    let world = World::open();
    let within = world.path("folder");
    std::fs::create_dir(&within).unwrap();
    std::fs::write(within.join("secret"), "own").unwrap();
    let folder = world.look_up(FOLDER, "folder").unwrap();
    let node = world.look_up(folder, "secret").unwrap();
    let handle = world.open_file(node, OFlags::RDWR).expect("the control");
    world.ask(RELEASE, node, &range(handle, 0, 0)).unwrap();
    std::fs::rename(&within, world.path("aside")).unwrap();
    symlink("..", &within).unwrap();
    assert!(world.open_file(node, OFlags::RDWR | OFlags::TRUNC).is_err());
    assert!(world.look_up(folder, "secret").is_err());
    assert!(world.ask(REMOVE, folder, &named(&[], "secret")).is_err());
    world.is_untouched();
}

#[test]
fn another_file_of_the_name_is_not_taken_for_it_and_one_that_is_open_lives_on() {
    let world = World::open();
    let (node, handle) = world.create("file").unwrap();
    world.write(handle, b"first").unwrap();
    std::fs::write(world.path("other"), "second").unwrap();
    std::fs::rename(world.path("other"), world.path("file")).unwrap();
    assert_eq!(world.ask(READ, node, &range(handle, 0, 10)).unwrap(), b"first");
    let attributes = world.ask(3, node, &[0; 16]).unwrap();
    assert_eq!(long(&attributes, 24), 5, "of the one that is open");
    world.ask(RELEASE, node, &range(handle, 0, 0)).unwrap();
    assert_eq!(world.ask(3, node, &[0; 16]), Err(Errno::STALE));
    let new = world.look_up(FOLDER, "file").unwrap();
    assert_ne!(new, node);
}

#[test]
fn what_may_only_be_read_is_not_changed() {
    let writer = World::open();
    let world = World::new(Access::Read, Limits::default());
    let changes: [(u32, Vec<u8>); 8] = [
        (CREATE, named(&[0; 16], "new")),
        (MAKE_FOLDER, named(&[0; 8], "new2")),
        (SYMLINK, b"new3\0anywhere\0".to_vec()),
        (
            MAKE_FILE,
            named(&[&0o100_644_u32.to_le_bytes()[..], &[0; 12]].concat(), "new4"),
        ),
        (LINK, named(&3_u64.to_le_bytes(), "new5")),
        (RENAME, [&FOLDER.0.to_le_bytes()[..], b"file\0moved\0"].concat()),
        (CHANGE, vec![0; 88]),
        (REMOVE, named(&[], "moved")),
    ];
    for world in [&world, &writer] {
        std::fs::write(world.path("file"), "file").unwrap();
        assert_eq!(world.look_up(FOLDER, "file"), Ok(NodeId(3)));
    }
    for (opcode, body) in changes {
        assert_eq!(world.ask(opcode, FOLDER, &body), Err(Errno::ROFS), "{opcode}");
        assert!(writer.ask(opcode, FOLDER, &body).is_ok(), "the control: {opcode}");
    }
    for flags in [OFlags::WRONLY, OFlags::RDWR, OFlags::RDONLY | OFlags::TRUNC] {
        assert_eq!(world.open_file(NodeId(3), flags), Err(Errno::ROFS), "{flags:?}");
    }
    let handle = world.open_file(NodeId(3), OFlags::RDONLY).unwrap();
    assert_eq!(world.ask(READ, FOLDER, &range(handle, 0, 10)).unwrap(), b"file");
    assert_eq!(world.write(handle, b"x"), Err(Errno::ROFS));
    assert_eq!(std::fs::read_dir(world.path("")).unwrap().count(), 1);
}

#[test]
fn what_is_no_file_of_bytes_is_neither_made_nor_opened() {
    let world = World::open();
    for kind in [
        FileType::Fifo,
        FileType::Socket,
        FileType::CharacterDevice,
        FileType::BlockDevice,
    ] {
        let before = [&(kind.as_raw_mode() | 0o666).to_le_bytes()[..], &[0; 12]].concat();
        let made = world.ask(MAKE_FILE, FOLDER, &named(&before, "special"));
        assert_eq!(made, Err(Errno::PERM), "{kind:?}");
    }
    fs::mknodat(CWD, world.path("pipe"), FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    let node = world.look_up(FOLDER, "pipe").unwrap();
    for flags in [OFlags::RDONLY, OFlags::WRONLY] {
        assert_eq!(
            world.open_file(node, flags),
            Err(Errno::PERM),
            "nobody waits for its other end"
        );
    }
    assert_eq!(world.open_file(FOLDER, OFlags::RDONLY), Err(Errno::ISDIR));
    let plain = [&0o100_600_u32.to_le_bytes()[..], &[0; 12]].concat();
    assert!(
        world.ask(MAKE_FILE, FOLDER, &named(&plain, "plain")).is_ok(),
        "the control"
    );
}

#[test]
fn open_files_and_known_files_have_limits() {
    let limits = Limits {
        handles_max: 2,
        nodes_max: 3,
    };
    let world = World::new(Access::Write, limits);
    let (node, first) = world.create("a").unwrap();
    world.open_file(node, OFlags::RDONLY).unwrap();
    assert_eq!(world.open_file(node, OFlags::RDONLY), Err(Errno::NFILE));
    assert_eq!(world.ask(OPEN_FOLDER, FOLDER, &[0; 8]), Err(Errno::NFILE));
    assert_eq!(world.create("b").unwrap_err(), Errno::NFILE);
    assert!(!world.path("b").exists(), "it is not made either");
    world.ask(RELEASE, node, &range(first, 0, 0)).unwrap();
    assert!(world.create("b").is_ok(), "the control");
    assert!(
        world
            .ask(MAKE_FOLDER, FOLDER, &named(&7_u64.to_le_bytes(), "c"))
            .is_ok()
    );
    assert_eq!(world.look_up(FOLDER, "c").map(drop), Ok(()), "it is known");
    std::fs::write(world.path("d"), "").unwrap();
    assert_eq!(world.look_up(FOLDER, "d"), Err(Errno::NFILE));
    let forget = raw(2, node, &1_u64.to_le_bytes());
    assert_eq!(world.folder.perform(&forget), Ok(None));
    assert!(world.look_up(FOLDER, "d").is_ok(), "the control");
    assert_eq!(
        Limits::default(),
        Limits {
            handles_max: 1024,
            nodes_max: 65536
        }
    );
}

#[test]
fn a_read_has_a_limit() {
    let world = World::open();
    let (node, handle) = world.create("file").unwrap();
    assert!(
        world.ask(READ, node, &range(handle, 0, DATA_BYTES_MAX)).is_ok(),
        "the control"
    );
    assert_eq!(
        world.ask(READ, node, &range(handle, 0, DATA_BYTES_MAX + 1)),
        Err(Errno::INVAL)
    );
    let folder = long(&world.ask(OPEN_FOLDER, FOLDER, &[0; 8]).unwrap(), 0);
    let listed = world
        .ask(READ_FOLDER, FOLDER, &range(folder, 0, u32::MAX as usize))
        .unwrap();
    assert!(listed.len() < DATA_BYTES_MAX);
}

#[test]
fn a_long_folder_is_listed_whole_and_once() {
    let world = World::open();
    let made: std::collections::BTreeSet<Vec<u8>> = (0..300).map(|n| format!("file-{n}").into_bytes()).collect();
    for name in &made {
        std::fs::write(world.path(std::str::from_utf8(name).unwrap()), "").unwrap();
    }
    let folder = long(&world.ask(OPEN_FOLDER, FOLDER, &[0; 8]).unwrap(), 0);
    let (mut seen, mut from) = (Vec::new(), 0);
    loop {
        let listed = world.ask(READ_FOLDER, FOLDER, &range(folder, from, 1000)).unwrap();
        assert!(listed.len() <= 1000);
        let mut rest = &listed[..];
        while !rest.is_empty() {
            let length = usize::from(rest[16]);
            seen.push(rest[24..24 + length].to_vec());
            from = long(rest, 8);
            rest = &rest[(24 + length).next_multiple_of(8)..];
        }
        if listed.is_empty() {
            break;
        }
    }
    seen.sort();
    let names: Vec<_> = seen.into_iter().filter(|name| name != b"." && name != b"..").collect();
    assert_eq!(names, made.into_iter().collect::<Vec<_>>());
}

#[test]
fn locks_and_other_owners_are_refused() {
    let world = World::open();
    let (node, handle) = world.create("file").unwrap();
    assert_eq!(world.ask(SET_LOCK, node, &[0; 48]), Err(Errno::NOLCK));
    let mut change = vec![0; 88];
    change[0] = 1 << 1;
    for (user, expected) in [(4000_u32, Ok(())), (0, Err(Errno::PERM)), (4001, Err(Errno::PERM))] {
        change[76..80].copy_from_slice(&user.to_le_bytes());
        assert_eq!(world.ask(CHANGE, node, &change).map(drop), expected, "{user}");
    }
    let mut mode = vec![0; 88];
    mode[0] = 1;
    mode[68..72].copy_from_slice(&0o106_755_u32.to_le_bytes());
    world.ask(CHANGE, node, &mode).unwrap();
    assert_eq!(std::fs::metadata(world.path("file")).unwrap().mode() & 0o7777, 0o755);
    assert_eq!(world.write(handle + 1, b"x"), Err(Errno::BADF));
}
