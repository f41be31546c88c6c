//! Virtual machines from the command line, with the program itself as their agent.

use super::harness::{Ran, World, bowline};

#[test]
fn a_command_runs_in_a_virtual_machine() {
    let world = World::new();
    let run = |arguments: &[&str]| {
        let mut command = bowline();
        let words = arguments.iter().take_while(|word| **word != "--");
        command.args(words).arg("--data").arg(world.path("data"));
        command.args(arguments.iter().skip_while(|word| **word != "--"));
        Ran(command.output().unwrap())
    };
    let before = run(&["vm", "run", "--", "/bin/busybox", "true"]);
    assert_eq!(before.code(), Some(2));
    assert!(
        before.stderr().contains("bowline vm image build"),
        "{}",
        before.stderr()
    );

    let built = run(&["vm", "image", "build", "--json"]).json();
    assert_eq!(built["cached"], false);
    let again = run(&["vm", "image", "build", "--json"]).json();
    assert_eq!((&again["cached"], &again["digest"]), (&true.into(), &built["digest"]));

    let ran = run(&[
        "vm",
        "run",
        "--json",
        "--",
        "/bin/busybox",
        "sh",
        "-c",
        "echo hello; exit 3",
    ]);
    assert_eq!(ran.code(), Some(3), "{}", ran.stderr());
    let ran: serde_json::Value = serde_json::from_str(&ran.stdout()).unwrap();
    assert_eq!((&ran["output"], &ran["code"]), (&"hello\n".into(), &3.into()));
    assert!(["kvm", "tcg"].contains(&ran["accelerator"].as_str().unwrap()), "{ran}");
    assert!(ran["origin"]["golden"].is_string(), "{ran}");
}
