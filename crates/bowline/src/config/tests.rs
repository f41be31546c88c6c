//! How layers win over one another, where values say they come from, and what is refused.

use super::*;

struct World {
    folder: tempfile::TempDir,
    environment: Vec<(&'static str, &'static str)>,
    flags: Vec<(Key, String)>,
}

fn world(file: Option<&str>) -> World {
    let folder = tempfile::tempdir().unwrap();
    if let Some(text) = file {
        std::fs::write(folder.path().join(FILE_NAME), text).unwrap();
    }
    World {
        folder,
        environment: Vec::new(),
        flags: Vec::new(),
    }
}

impl World {
    fn load(&self) -> Result<Config, ConfigError> {
        let variable = |name: &str| {
            let found = self.environment.iter().find(|(variable, _)| *variable == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        Config::load(Sources {
            file: None,
            folder: self.folder.path(),
            environment: &variable,
            flags: self.flags.clone(),
        })
    }

    fn origin(&self, wanted: Key) -> String {
        let config = self.load().unwrap();
        let (_, value) = config.values().find(|(key, _)| *key == wanted).unwrap();
        format!("{} from {}", value.text, value.origin)
    }

    fn refusal(&self) -> String {
        self.load().unwrap_err().to_string()
    }
}

#[test]
fn without_any_layer_the_defaults_hold() {
    let config = world(None).load().unwrap();
    assert_eq!(config.listen.to_string(), "127.0.0.1:9000");
    assert_eq!(config.data, PathBuf::from("bowline-data"));
    assert_eq!(config.keep_alive, Duration::from_secs(3600));
    assert!(config.values().all(|(_, value)| value.origin == Origin::Default));
}

#[test]
fn flags_win_over_environment_over_file_over_defaults() {
    let mut world = world(Some("# a node\nregion = \"eu-north-1\"\n\nconcurrency = 7\n"));
    assert_eq!(world.origin(Key::Data), "bowline-data from default");
    assert_eq!(world.origin(Key::Concurrency), "7 from bowline.toml:4");
    assert_eq!(world.origin(Key::Region), "eu-north-1 from bowline.toml:2");
    world.environment.push(("BOWLINE_REGION", "eu-west-1"));
    assert_eq!(world.origin(Key::Region), "eu-west-1 from env BOWLINE_REGION");
    world.flags.push((Key::Region, "us-west-2".to_owned()));
    assert_eq!(world.origin(Key::Region), "us-west-2 from flag --region");
    assert_eq!(world.load().unwrap().concurrency, 7);
}

#[test]
fn an_unknown_setting_is_refused_with_its_place_and_the_nearest_name() {
    let refusal = world(Some("region = \"us-east-1\"\nkeep_alive_second = 3\n")).refusal();
    assert_eq!(
        refusal,
        "bowline.toml:2:1: unknown setting `keep_alive_second`; did you mean `keep_alive_seconds`?"
    );
    let refusal = world(Some("xyzzy = 3\n")).refusal();
    assert!(
        refusal.starts_with("bowline.toml:1:1: unknown setting `xyzzy`; known are `listen`, "),
        "{refusal}"
    );
}

#[test]
fn a_file_that_is_not_toml_is_refused_with_its_place() {
    let refusal = world(Some("region = \"us-east-1\"\nlisten = = 3\n")).refusal();
    assert!(refusal.starts_with("bowline.toml:2:"), "{refusal}");
    let refusal = world(Some("listen = [1]\n")).refusal();
    assert_eq!(
        refusal,
        "bowline.toml:1:1: `listen` must be a text or a whole number, not array"
    );
}

#[test]
fn a_named_file_must_exist() {
    let folder = tempfile::tempdir().unwrap();
    let error = Config::load(Sources {
        file: Some(folder.path().join("none.toml")),
        folder: folder.path(),
        environment: &|_| None,
        flags: Vec::new(),
    });
    assert!(error.unwrap_err().to_string().contains("none.toml"));
}

#[test]
fn a_certificate_and_its_key_are_given_together() {
    let mut world = world(None);
    assert_eq!(world.load().unwrap().certificate, None);
    world.environment.push(("BOWLINE_TLS_CERT", "cert.pem"));
    let refusal = world.refusal();
    assert!(
        refusal.contains("`tls_key`") && refusal.contains("`tls_cert` is given"),
        "{refusal}"
    );
    world.flags.push((Key::TlsPrivate, "key.pem".to_owned()));
    let certificate = world.load().unwrap().certificate.unwrap();
    assert_eq!(
        (certificate.chain, certificate.key),
        ("cert.pem".into(), "key.pem".into())
    );
}

#[test]
fn values_of_the_wrong_shape_are_refused_with_what_was_expected() {
    for (key, text, expected) in [
        (Key::Listen, "9000", "an address and a port"),
        (Key::Concurrency, "many", "a whole number from 1"),
        (Key::KeepAliveSeconds, "0", "a whole number from 1"),
        (Key::LogFormat, "xml", "`text` or `json`"),
        (Key::LogLevel, "loud", "`error`, `warn`"),
        (Key::Placement, "here", "`cluster` or `node`"),
        (Key::Region, "US EAST", "a region's name"),
        (Key::Registries, "registry.example.com", "`https://[USER:PASSWORD@]HOST"),
        (
            Key::Registries,
            "http://user:secret@h",
            "`http://` with a loopback address",
        ),
    ] {
        let mut world = world(None);
        world.flags.push((key, text.to_owned()));
        let refusal = world.refusal();
        assert!(refusal.contains(expected), "{refusal}");
        assert!(!refusal.contains("secret@"), "{refusal}");
    }
}

#[test]
fn registries_are_several_and_their_passwords_are_not_shown() {
    let mut world = world(None);
    assert!(world.load().unwrap().registries.is_empty());
    let text = "https://user:hidden@r.example.com, http://127.0.0.1:5000";
    world.flags.push((Key::Registries, text.to_owned()));
    let registries = world.load().unwrap().registries;
    let hosts: Vec<_> = registries.iter().map(|registry| registry.host()).collect();
    assert_eq!(hosts, ["r.example.com", "127.0.0.1:5000"]);
    assert_eq!(shown(Key::Registries, text), "(with a secret)");
    assert_eq!(shown(Key::Registries, "https://h"), "https://h");
}

#[test]
fn watched_folders_have_names_of_their_own() {
    let mut world = world(None);
    assert!(world.load().unwrap().watch.is_empty());
    world.flags.push((Key::Watch, "in=/srv/in, scans=out=there".to_owned()));
    let expected = [("in", "/srv/in"), ("scans", "out=there")].map(|(name, folder)| (name.to_owned(), folder.into()));
    assert_eq!(world.load().unwrap().watch, expected);
    let many: Vec<String> = (0..17).map(|number| format!("f{number}=/srv")).collect();
    for (text, expected) in [
        ("/srv/in", "expected `NAME=FOLDER`"),
        ("in=", "expected `NAME=FOLDER`"),
        ("In=/srv", "no name of a folder"),
        ("a/b=/srv", "no name of a folder"),
        ("in=/a,in=/b", "two folders"),
        (&many.join(","), "at most 16"),
    ] {
        world.flags.push((Key::Watch, text.to_owned()));
        let refusal = world.refusal();
        assert!(refusal.contains(expected), "{refusal}");
    }
}
