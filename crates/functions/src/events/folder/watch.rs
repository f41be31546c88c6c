//! What happens in a folder while it happens, as the kernel tells it.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::io::Errno;

/// Room for some hundred events.
const BUFFER_BYTES: usize = 16 * 1024;
/// Events that are taken from the kernel in one go; the others stay there until these are worked off.
const EVENTS_MAX: usize = 4096;

/// How often the kernel is asked: it keeps what happens meanwhile.
const LOOKED_EVERY: Duration = Duration::from_millis(50);

/// What happened to a file last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// Somebody has begun to write.
    Written,
    /// A writer has closed it, or it was moved here.
    Complete,
    /// It was removed, or moved away.
    Gone,
}

/// What happened to files; paths begin below the watched folder.
#[derive(Debug, Default)]
pub struct News {
    pub files: HashMap<PathBuf, What>,
    /// There is more than can be told: a new folder, or what was missed.
    pub look_around: bool,
}

/// Watches a folder and those below that it was told of.
pub struct Watch {
    root: PathBuf,
    kernel: OwnedFd,
    folders: HashMap<i32, PathBuf>,
}

impl Watch {
    pub fn new(root: PathBuf) -> io::Result<Self> {
        let kernel = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
        Ok(Self {
            root,
            kernel,
            folders: HashMap::new(),
        })
    }

    /// Watches a folder from now on, if it is still there. One that is watched already is not watched twice.
    pub fn add(&mut self, folder: &Path) -> io::Result<()> {
        let flags = WatchFlags::CREATE
            | WatchFlags::MODIFY
            | WatchFlags::CLOSE_WRITE
            | WatchFlags::MOVED_TO
            | WatchFlags::MOVED_FROM
            | WatchFlags::DELETE
            | WatchFlags::ONLYDIR
            | WatchFlags::DONT_FOLLOW;
        // The folder itself may be named by a link.
        let flags = if folder == Path::new("") {
            flags - WatchFlags::DONT_FOLLOW
        } else {
            flags
        };
        match inotify::add_watch(&self.kernel, self.root.join(folder), flags) {
            Ok(number) => {
                self.folders.insert(number, folder.to_owned());
                Ok(())
            }
            Err(Errno::NOENT | Errno::NOTDIR) if folder != Path::new("") => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Waits until something happens. Dropped, it loses nothing.
    pub async fn next(&mut self) -> io::Result<News> {
        loop {
            if let Some(news) = self.read()? {
                return Ok(news);
            }
            tokio::time::sleep(LOOKED_EVERY).await;
        }
    }

    /// What has happened since this was asked last, or the first part of it, if anything.
    fn read(&mut self) -> io::Result<Option<News>> {
        let (mut news, mut events) = (News::default(), 0);
        let mut buffer = [MaybeUninit::uninit(); BUFFER_BYTES];
        let mut reader = inotify::Reader::new(&self.kernel, &mut buffer);
        while events < EVENTS_MAX || !reader.is_buffer_empty() {
            match reader.next() {
                Ok(event) => {
                    events += 1;
                    let name = event.file_name().map(|name| OsStr::from_bytes(name.to_bytes()));
                    tell(&mut news, &mut self.folders, (event.wd(), event.events()), name);
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                Err(error) => return Err(error.into()),
            }
        }
        Ok((events > 0).then_some(news))
    }
}

fn tell(news: &mut News, folders: &mut HashMap<i32, PathBuf>, (watch, events): (i32, ReadFlags), name: Option<&OsStr>) {
    if events.contains(ReadFlags::QUEUE_OVERFLOW) {
        news.look_around = true;
        return;
    }
    if events.contains(ReadFlags::IGNORED) {
        folders.remove(&watch);
        return;
    }
    let (Some(folder), Some(name)) = (folders.get(&watch), name) else {
        return;
    };
    if events.contains(ReadFlags::ISDIR) {
        news.look_around |= events.intersects(ReadFlags::CREATE | ReadFlags::MOVED_TO | ReadFlags::MOVED_FROM);
        return;
    }
    let what = if events.intersects(ReadFlags::CLOSE_WRITE | ReadFlags::MOVED_TO) {
        What::Complete
    } else if events.intersects(ReadFlags::DELETE | ReadFlags::MOVED_FROM) {
        What::Gone
    } else if events.intersects(ReadFlags::CREATE | ReadFlags::MODIFY) {
        What::Written
    } else {
        return;
    };
    // What happened last counts.
    news.files.insert(folder.join(name), what);
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[tokio::test]
    async fn a_file_is_complete_when_its_writer_closes_it_or_moves_it_here() {
        let root = tempfile::tempdir().unwrap();
        let elsewhere = tempfile::tempdir_in(root.path()).unwrap();
        let mut watch = Watch::new(root.path().to_owned()).unwrap();
        watch.add(Path::new("")).unwrap();
        let mut file = std::fs::File::create(root.path().join("a")).unwrap();
        file.write_all(b"half").unwrap();
        let news = async |watch: &mut Watch| watch.next().await.unwrap().files;
        let one = |name: &str, what| HashMap::from([(PathBuf::from(name), what)]);
        assert_eq!(news(&mut watch).await, one("a", What::Written));
        drop(file);
        assert_eq!(news(&mut watch).await, one("a", What::Complete));
        std::fs::write(elsewhere.path().join("b"), b"whole").unwrap();
        std::fs::rename(elsewhere.path().join("b"), root.path().join("b")).unwrap();
        assert_eq!(news(&mut watch).await, one("b", What::Complete));
        std::fs::remove_file(root.path().join("b")).unwrap();
        assert_eq!(news(&mut watch).await, one("b", What::Gone));
        std::fs::create_dir(root.path().join("new")).unwrap();
        assert!(watch.next().await.unwrap().look_around);
    }

    #[tokio::test]
    async fn what_happens_is_taken_in_parts() {
        let root = tempfile::tempdir().unwrap();
        let mut watch = Watch::new(root.path().to_owned()).unwrap();
        watch.add(Path::new("")).unwrap();
        // Each is made and closed: two events, fewer than the kernel keeps.
        for number in 0..EVENTS_MAX {
            std::fs::write(root.path().join(number.to_string()), b"").unwrap();
        }
        let mut seen = HashMap::new();
        let (mut parts, mut largest) = (0, 0);
        while seen.len() < EVENTS_MAX || seen.values().any(|what| *what != What::Complete) {
            let news = watch.next().await.unwrap();
            assert!(!news.look_around, "none is lost");
            (parts, largest) = (parts + 1, largest.max(news.files.len()));
            seen.extend(news.files);
        }
        assert!(parts >= 2 && largest < EVENTS_MAX, "{parts} parts of {largest}");
    }
}
