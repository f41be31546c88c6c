//! What the command line signs its requests with: the environment's keys, or a profile's, as other clients find them.

use std::path::PathBuf;

use bowline_api::auth::sigv4::Credentials;

const REGION: &str = "us-east-1";

/// The credentials that the environment or the credentials file names, if any.
pub fn find(environment: &dyn Fn(&str) -> Option<String>) -> Option<Credentials> {
    let get = |name: &str| environment(name).filter(|value| !value.is_empty());
    let region = get("AWS_REGION").or_else(|| get("AWS_DEFAULT_REGION"));
    let region = region.unwrap_or_else(|| REGION.to_owned());
    if let (Some(access_key), Some(secret)) = (get("AWS_ACCESS_KEY_ID"), get("AWS_SECRET_ACCESS_KEY")) {
        return Some(Credentials {
            access_key,
            secret,
            region,
        });
    }
    let home = || Some(PathBuf::from(get("HOME")?).join(".aws/credentials"));
    let path = get("AWS_SHARED_CREDENTIALS_FILE").map(PathBuf::from).or_else(home)?;
    let text = std::fs::read_to_string(path).ok()?;
    let profile = get("AWS_PROFILE").unwrap_or_else(|| "default".to_owned());
    let value = |name| member(&text, &profile, name);
    Some(Credentials {
        access_key: value("aws_access_key_id")?,
        secret: value("aws_secret_access_key")?,
        region,
    })
}

/// A value of a section of an INI file.
fn member(text: &str, section: &str, name: &str) -> Option<String> {
    let mut inside = false;
    for line in text.lines().map(str::trim) {
        if let Some(title) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            inside = title.trim() == section;
        } else if let Some((key, value)) = line.split_once('=').filter(|_| inside)
            && key.trim() == name
        {
            return Some(value.trim().to_owned());
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(variables: &[(&str, &str)], expected: Option<(&str, &str, &str)>) {
        let environment = |name: &str| {
            let found = variables.iter().find(|(variable, _)| *variable == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        let found = find(&environment);
        let found = found.as_ref();
        let found = found.map(|found| (&*found.access_key, &*found.secret, &*found.region));
        assert_eq!(found, expected, "{variables:?}");
    }

    #[test]
    fn keys_come_from_the_environment_or_a_profile() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("credentials");
        let text = "# keys\n[default]\naws_access_key_id = A\naws_secret_access_key=B\n\n[other]\naws_access_key_id=C\n\
                    aws_secret_access_key=D=\n";
        std::fs::write(&path, text).unwrap();
        let file = ("AWS_SHARED_CREDENTIALS_FILE", path.to_str().unwrap());
        check(&[], None);
        check(&[("HOME", "/nowhere")], None);
        check(&[file], Some(("A", "B", "us-east-1")));
        check(&[file, ("AWS_PROFILE", "other")], Some(("C", "D=", "us-east-1")));
        check(&[file, ("AWS_PROFILE", "none")], None);
        let pair = [("AWS_ACCESS_KEY_ID", "E"), ("AWS_SECRET_ACCESS_KEY", "F")];
        check(
            &[file, pair[0], pair[1], ("AWS_REGION", "eu-west-1")],
            Some(("E", "F", "eu-west-1")),
        );
        check(&[file, ("AWS_ACCESS_KEY_ID", "E")], Some(("A", "B", "us-east-1")));
    }
}
