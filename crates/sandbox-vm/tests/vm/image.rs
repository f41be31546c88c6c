//! Images: the same inputs give the same image, and give it once.

use bowline_sandbox_vm::Image;
use bowline_sandbox_vm::image::{Build, Source, build};

use super::harness::{World, agent, build_in, kept};

#[tokio::test]
async fn the_same_inputs_give_the_same_image_and_are_built_once() {
    let world = World::new().await;
    let folder = world.path("images");
    let first = build_in(&folder);
    assert!(!first.cached);
    assert_eq!(
        first.image.digest(),
        world.image.digest(),
        "byte by byte, wherever it is built"
    );
    assert!(build_in(&folder).cached);
    assert_eq!(Image::current(&folder).unwrap(), first.image);

    // The control: another agent is another image.
    let other = world.path("agent");
    std::fs::copy(agent(), &other).unwrap();
    std::io::Write::write_all(&mut std::fs::File::options().append(true).open(&other).unwrap(), b"x").unwrap();
    let wanted = Build {
        folder: folder.clone(),
        agent: other,
        packages: Source::Folder(kept().join("packages")),
        interpreters: Vec::new(),
    };
    let other = build(&wanted, &|_| {}).unwrap();
    assert!(!other.cached);
    assert_ne!(other.image.digest(), first.image.digest());
    assert_eq!(Image::current(&folder).unwrap(), other.image);
}
