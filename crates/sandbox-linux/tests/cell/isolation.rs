//! What a guest can neither see nor do.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;

use crate::harness::{Bench, host, is_root};

#[tokio::test]
async fn files_of_the_host_are_not_there() {
    let bench = Bench::start();
    let secret = bench.dir.path().join("secret");
    fs::write(&secret, "secret").unwrap();
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o644)).unwrap();
    let script = format!("attempt(lambda: open({:?}).read())", secret.to_str().unwrap());
    bench.check(&script, "ok", "ENOENT").await;
}

#[tokio::test]
async fn a_guest_sees_only_its_own_processes() {
    let bench = Bench::start();
    let here = std::process::id();
    bench
        .check(&format!("attempt(lambda: os.kill({here}, 0))"), "ok", "ESRCH")
        .await;
    let seen = bench
        .run("print(sorted(int(p) for p in os.listdir('/proc') if p.isdigit()), os.getpid())")
        .await;
    assert_eq!(seen.output, "[1, 2] 2\n");
}

#[tokio::test]
async fn a_guest_cannot_touch_its_init() {
    let bench = Bench::start();
    let script = "
for path in ['environ', 'mem', 'maps', 'fd', 'root']:
    attempt(lambda: os.listdir('/proc/1/fd') if path == 'fd' else os.readlink('/proc/1/root') if path == 'root' else open('/proc/1/' + path, 'rb').read(1))
os.kill(1, 9)
print('alive')";
    let outcome = bench.run(script).await;
    assert_eq!(
        outcome.lines(),
        ["EACCES", "EACCES", "EACCES", "EACCES", "EACCES", "alive"]
    );
    assert!(outcome.succeeded());
}

#[tokio::test]
async fn tracing_is_refused() {
    let script = "
child = os.fork()
if child == 0:
    time.sleep(60)
attempt(lambda: call(libc.ptrace, 16, child, 0, 0))
os.kill(child, 9)";
    Bench::start().check(script, "ok", "EPERM").await;
}

#[tokio::test]
async fn mounting_is_refused() {
    let script = "
place = '/tmp/cell-test-mount-%d' % os.getpid()
os.mkdir(place)
attempt(lambda: call(libc.mount, b'none', place.encode(), b'tmpfs', 0, None))
libc.umount2(place.encode(), 2)
os.rmdir(place)";
    let bench = Bench::start();
    let file = bench.code(script).join("script.py");
    // In namespaces of its own, so that the control leaves no mount on the host.
    let control = host("unshare", &["-Urm", "/usr/bin/python3", file.to_str().unwrap()]);
    assert_eq!(control, "ok\n", "the control outside of the cell");
    assert_eq!(bench.run(script).await.output, "EPERM\n");
}

#[tokio::test]
async fn the_host_s_loopback_is_out_of_reach() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let script = format!("attempt(lambda: socket.create_connection(('127.0.0.1', {port}), 5))");
    Bench::start().check(&script, "ok", "ECONNREFUSED").await;
}

#[tokio::test]
async fn there_is_no_other_network() {
    let outcome = Bench::start()
        .run(
            "
attempt(lambda: socket.create_connection(('192.0.2.1', 80), 5))
print([name for _, name in socket.if_nameindex()])",
        )
        .await;
    assert_eq!(outcome.lines(), ["ENETUNREACH", "['lo']"]);
}

#[tokio::test]
async fn unusual_sockets_are_refused_controlled_as_root() {
    let script = "
attempt(lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 1))
attempt(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0))
attempt(lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 15))
attempt(lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM))
attempt(lambda: socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))";
    let bench = Bench::start();
    let inside = "EPERM\nEPERM\nEPERM\nok\nok";
    if is_root("unusual_sockets_are_refused_controlled_as_root") {
        bench.check(script, "ok\nok\nok\nok\nok", inside).await;
    } else {
        assert_eq!(bench.run(script).await.output.trim(), inside);
    }
    let others =
        bench.run("for family in [38, 40, 31, 44]: attempt(lambda: socket.socket(family, socket.SOCK_STREAM))");
    assert_eq!(others.await.lines(), ["EPERM"; 4]);
}

#[tokio::test]
async fn namespaces_are_not_to_be_had() {
    let bench = Bench::start();
    let script = "
NEWUSER = 0x10000000
child = libc.syscall(56 if os.uname().machine == 'x86_64' else 220, NEWUSER | 17, 0, 0, 0, 0)
if child == 0:
    os._exit(0)
print('born' if child > 0 else 'refused')
attempt(lambda: call(libc.syscall, 435, 0, 0))
attempt(lambda: call(libc.unshare, NEWUSER))";
    let file = bench.code(script).join("script.py");
    assert_eq!(
        host("/usr/bin/python3", &[file.to_str().unwrap()]),
        "born\nEINVAL\nok\n",
        "the control outside of the cell"
    );
    assert_eq!(bench.run(script).await.lines(), ["refused", "ENOSYS", "EPERM"]);
}

#[tokio::test]
async fn dangerous_calls_are_refused() {
    // bpf, perf_event_open, keyctl, userfaultfd, io_uring_setup, setns, process_vm_readv, kexec_load, name_to_handle_at
    let script = "
x86 = os.uname().machine == 'x86_64'
for number in ([321, 298, 250, 323, 425, 308, 310, 246, 303] if x86 else [280, 241, 219, 282, 425, 268, 270, 104, 264]):
    attempt(lambda: call(libc.syscall, number, 0, 0, 0, 0, 0))";
    let outcome = Bench::start().run(script).await;
    assert_eq!(outcome.lines(), ["EPERM"; 9]);
}

#[tokio::test]
async fn the_system_and_the_code_are_read_only() {
    let script = "
for path in ['/var/task/new', '/usr/new', '/etc/new', '/new', '/dev/new', '/proc/sys/kernel/hostname', '/tmp/new']:
    attempt(lambda: open(path, 'w').close())
attempt(lambda: open('/var/task/script.py', 'a').close())";
    let outcome = Bench::start().run(script).await;
    assert_eq!(
        outcome.lines(),
        ["EROFS", "EROFS", "EROFS", "EROFS", "EROFS", "EROFS", "ok", "EROFS"]
    );
}

#[tokio::test]
async fn the_system_is_enough_for_an_interpreter() {
    let script = "
import ssl, json, pwd, multiprocessing
print(pwd.getpwuid(os.getuid()).pw_name, socket.gethostname(), os.getcwd(), os.listdir('/tmp'))
print(open('/dev/null').read() == '', len(open('/dev/urandom', 'rb').read(4)), sorted(os.environ))
print(sorted(os.listdir('/dev')))";
    let outcome = Bench::start().run(script).await;
    assert_eq!(
        outcome.lines(),
        [
            "sandbox sandbox /tmp []",
            "True 4 ['LC_CTYPE', 'PATH']",
            "['fd', 'full', 'null', 'random', 'stderr', 'stdin', 'stdout', 'urandom', 'zero']"
        ]
    );
}

#[tokio::test]
async fn a_guest_inherits_only_four_descriptors() {
    let outcome = Bench::start()
        .run(
            "
print([number for number in range(64) if os.path.exists('/proc/self/fd/%d' % number)])
print(os.getsid(0) == os.getpid())",
        )
        .await;
    assert_eq!(outcome.lines(), ["[0, 1, 2, 3]", "True"]);
}
