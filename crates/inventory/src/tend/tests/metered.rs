//! What instances really use (04/T-D10): by meters that a test turns, and by those of real control groups.

use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};

use bowline_capacity::draining::Measured;
use bowline_sandbox_linux::cell::place::{Place, PlaceLimits};

use super::*;

const SECOND: Duration = Duration::from_secs(1);

/// What an instance uses from now on, in thousandths of its memory and of its processors.
#[derive(Clone, Default)]
struct Load(Arc<[AtomicU64; 2]>);

impl Load {
    fn set(&self, memory: u64, processors: u64) {
        self.0[0].store(memory, Ordering::Relaxed);
        self.0[1].store(processors, Ordering::Relaxed);
    }
}

impl Load {
    /// Meters of it, whose processor time grows whenever they are read, once a second.
    fn meters(&self) -> Meters {
        let (of, cpu) = (self.clone(), AtomicU64::new(0));
        Box::new(move || {
            let [memory, processors] = [0, 1].map(|at| of.0[at].load(Ordering::Relaxed));
            let millis = processors + cpu.fetch_add(processors, Ordering::Relaxed);
            Reading {
                memory_bytes: Some((memory << 30) / 1000),
                cpu: Some(Duration::from_millis(millis)),
            }
        })
    }
}

impl World {
    /// Gives both instances meters; the first one idles, what the second one does is the test's.
    fn meter(&self) -> Load {
        let (idle, load) = (Load::default(), Load::default());
        idle.set(50, 10);
        for (name, load) in [(DEFAULT_INSTANCE, &idle), ("default-2", &load)] {
            self.meters.lock().insert(name.to_owned(), load.meters());
        }
        load
    }

    /// Looks after the instances for so many seconds, once in each; says whether the second one is marked then.
    async fn marks_within(&self, seconds: u32) -> bool {
        for _ in 0..seconds {
            self.clock.advance(SECOND);
            self.service.handle().tend_once().await;
        }
        self.held().await[1].2
    }

    /// What the second instance uses, and the use of all together that is compared with the line.
    fn figures(&self) -> (Measured, f64) {
        let shared = self.service.handle().shared;
        let tended = shared.tended.lock();
        let group = &tended.0[&version(1).account];
        let measured = group.meterings[&group.ids["default-2"]].measured;
        (measured, group.active.utilisation())
    }
}

/// What is used for as long as may be is not marked, however little of it was given out; what idles is, for exactly as long.
#[tokio::test]
async fn t_d10_one_that_is_really_used_is_not_marked_and_an_idle_one_is_after_a_while() {
    for (memory, processors) in [(600, 10), (50, 600)] {
        let world = World::new(false).await;
        let _two = world.two().await;
        let load = world.meter();
        load.set(memory, processors);
        assert!(
            !world.marks_within(150).await,
            "{memory} and {processors} of a thousand"
        );
        load.set(50, 10);
        // Of the processors it is seen a second later.
        assert!(!world.marks_within(60).await, "it has not idled for a minute yet");
        assert!(world.marks_within(2).await);
    }
}

/// A moment of use begins the minute anew.
#[tokio::test]
async fn t_d10_one_that_is_used_now_and_then_is_not_marked() {
    let world = World::new(false).await;
    let _two = world.two().await;
    let load = world.meter();
    for _ in 0..4 {
        load.set(50, 900);
        assert!(!world.marks_within(1).await);
        load.set(50, 10);
        assert!(!world.marks_within(50).await);
    }
    assert!(world.marks_within(12).await, "the control");
}

/// What was given out counts beside: sandboxes that stand warm are worth their room, or the keeper would let them go.
#[tokio::test]
async fn one_whose_room_is_given_out_is_not_marked_however_little_it_uses() {
    let world = World::new(false).await;
    let _two = world.two().await;
    let (more, _) = world.create(500).await;
    let load = world.meter();
    load.set(50, 10);
    assert_eq!(world.held().await[1], held("default-2", 600, false));
    assert!(!world.marks_within(150).await);
    more.destroy().await;
    assert!(world.marks_within(61).await, "the control");
}

/// A place with a process in it that has this much memory and uses up a processor; ended when dropped.
struct Spinner {
    place: Place,
    child: Child,
}

const LIMITS: PlaceLimits = PlaceLimits {
    memory_bytes: 1 << 30,
    cpu_millis: 1000,
    pids: 100,
};

impl Spinner {
    fn start(mib: u64) -> Self {
        let name = format!("bowline-test-metered-{}-{mib}", std::process::id());
        let place = Place::make(&name, &LIMITS).unwrap();
        let entrances = place
            .groups()
            .iter()
            .map(|group| group.join("cgroup.procs").display().to_string());
        let enter: String = entrances.map(|file| format!("echo $$ > {file}; ")).collect();
        let python = format!("held = b'x' * ({mib} << 20)\nprint(len(held), flush=True)\nwhile True: pass");
        let child = Command::new("/bin/sh")
            .args(["-c", &format!("{enter} exec python3 -c \"$0\""), &python])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut spinner = Self { place, child };
        let mut line = String::new();
        let output = std::io::BufReader::new(spinner.child.stdout.take().unwrap());
        std::io::BufRead::read_line(&mut { output }, &mut line).unwrap();
        assert_eq!(line.trim(), (mib << 20).to_string());
        spinner
    }

    /// The number in a file of its groups, behind a label, as the kernel says it.
    fn number(&self, file: &str, label: &str) -> Option<u64> {
        let texts = self.place.groups().iter().map(|group| group.join(file));
        let mut texts = texts.filter_map(|path| std::fs::read_to_string(path).ok());
        texts.find_map(|text| {
            text.lines()
                .find_map(|line| line.strip_prefix(label)?.trim().parse().ok())
        })
    }

    fn memory_share(&self) -> f64 {
        let names = [
            ["memory.current", "memory.max"],
            ["memory.usage_in_bytes", "memory.limit_in_bytes"],
        ];
        let shares = names
            .iter()
            .find_map(|[used, most]| Some((self.number(used, "")?, self.number(most, "")?)));
        let (used, most) = shares.unwrap();
        share(used, most)
    }

    fn cpu_micros(&self) -> u64 {
        let nanos = || Some(self.number("cpuacct.usage", "")? / 1000);
        self.number("cpu.stat", "usage_usec ").or_else(nanos).unwrap()
    }
}

impl Drop for Spinner {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.place
            .groups()
            .iter()
            .for_each(|group| drop(std::fs::remove_dir(group)));
    }
}

#[allow(clippy::cast_precision_loss, reason = "a share needs no more")]
fn share(used: u64, most: u64) -> f64 {
    used as f64 / most as f64
}

/// 04/T-D10: the manager's figure of each instance, and of all, is what the control groups say, within two hundredths. Each of its
/// looks lies between two of the test's, which are therefore its bounds, however busy the machine is.
#[tokio::test]
async fn t_d10_the_figure_is_that_of_the_control_groups_as_root() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("t_d10_the_figure_is_that_of_the_control_groups_as_root: skipped, it takes root");
        return;
    }
    const WITHIN: f64 = 0.02;
    let world = World::by(Clock::system(), false).await;
    let _two = world.two().await;
    let spinner = Spinner::start(600);
    let meter = spinner.place.meter();
    let read = move || Reading {
        memory_bytes: meter.memory_bytes(),
        cpu: meter.cpu(),
    };
    world.meters.lock().insert("default-2".to_owned(), Box::new(read));
    let look = async || {
        let before = (world.clock.monotonic(), spinner.cpu_micros());
        world.service.handle().tend_once().await;
        (before, (world.clock.monotonic(), spinner.cpu_micros()))
    };
    let (earliest, latest) = look().await;
    tokio::time::sleep(3 * SECOND).await;
    let (first, last) = look().await;
    let micros = |from: Timed, to: Timed| u64::try_from(to.0.since(from.0).as_micros()).unwrap();
    let least = share(first.1 - latest.1, micros(earliest, last)) - WITHIN;
    let most = share(last.1 - earliest.1, micros(latest, first)) + WITHIN;
    let (measured, of_all) = world.figures();
    let processors = share(measured.processors.used, measured.processors.most);
    assert!(
        (least..most).contains(&processors),
        "{least} to {most}, and not {processors}"
    );
    assert!(processors > 0.1, "the control: it spins: {processors}");

    let memory = share(measured.memory.used, measured.memory.most);
    let own = spinner.memory_share();
    assert!((memory - own).abs() < WITHIN, "{memory}, and not {own}");
    assert!((0.58..0.65).contains(&memory), "600 of 1024: {memory}");
    assert!(
        (of_all - memory.max(processors)).abs() < 1e-9,
        "{of_all}: the other one has no meters"
    );
}

type Timed = (bowline_foundation::clock::Monotonic, u64);
