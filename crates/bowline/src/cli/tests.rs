//! What the help texts say.

use super::*;

fn help(path: &[&str]) -> String {
    let mut command = Cli::command();
    command.build();
    let command = path.iter().fold(&mut command, |command, name| {
        command.find_subcommand_mut(name).expect("the command exists")
    });
    command.render_help().to_string()
}

#[test]
fn the_definition_is_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn help_texts_are_as_documented() {
    insta::assert_snapshot!("help", help(&[]));
    insta::assert_snapshot!("help_up", help(&["up"]));
    insta::assert_snapshot!("help_deploy", help(&["deploy"]));
    insta::assert_snapshot!("help_aliases_set", help(&["aliases", "set"]));
    insta::assert_snapshot!("help_layer_publish", help(&["layer", "publish"]));
    insta::assert_snapshot!("help_stream", help(&["stream"]));
    insta::assert_snapshot!("help_stream_append", help(&["stream", "append"]));
    insta::assert_snapshot!("help_stream_tail", help(&["stream", "tail"]));
    insta::assert_snapshot!("help_session", help(&["session"]));
    insta::assert_snapshot!("help_session_create", help(&["session", "create"]));
    insta::assert_snapshot!("help_object", help(&["object"]));
    insta::assert_snapshot!("help_object_find", help(&["object", "find"]));
    insta::assert_snapshot!("help_stores", help(&["stores"]));
}

#[test]
fn every_shell_gets_a_script() {
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        let mut script = Vec::new();
        clap_complete::generate(shell, &mut Cli::command(), "bowline", &mut script);
        let script = String::from_utf8(script).unwrap();
        assert!(script.contains("deploy"), "{shell}");
    }
}
