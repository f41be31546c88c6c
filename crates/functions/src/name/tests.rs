//! Names and ARNs: what is read, what is refused, and the round trip.

use proptest::prelude::*;

use super::*;

fn caller() -> AccountId {
    AccountId::default_account()
}

fn check(text: &str, qualifier: Option<&str>, expected: Option<(&str, &str, Option<&str>)>) {
    let found = FunctionRef::parse(text, qualifier, &caller()).ok();
    let found = found.map(|found| {
        (
            found.account.to_string(),
            found.name.to_string(),
            found.qualifier.map(|qualifier| qualifier.to_string()),
        )
    });
    let expected =
        expected.map(|(account, name, qualifier)| (account.to_owned(), name.to_owned(), qualifier.map(str::to_owned)));
    assert_eq!(found, expected, "{text} {qualifier:?}");
}

#[test]
fn a_name_may_say_its_region() {
    let check = |text: &str, expected: Option<&str>| {
        assert!(FunctionRef::parse(text, None, &caller()).is_ok(), "{text}");
        assert_eq!(FunctionRef::region(text), expected, "{text}");
    };
    check("f", None);
    check("f:live", None);
    check("function:f", None);
    check("123456789012:function:f", None);
    check("us-east-1:123456789012:function:f", Some("us-east-1"));
    check(
        "arn:aws:lambda:us-east-1:123456789012:function:f:live",
        Some("us-east-1"),
    );
    check(
        "arn:aws-us-gov:lambda:us-gov-west-1:123456789012:function:f",
        Some("us-gov-west-1"),
    );
    // Nothing that can be refused here makes it panic.
    for text in [
        "",
        ":",
        "arn:",
        "arn:function:f",
        ":function:",
        "arn:aws:lambda:function:f",
    ] {
        FunctionRef::region(text);
    }
}

#[test]
fn functions_are_named_in_every_form_the_service_takes() {
    const OURS: &str = "000000000000";
    const OTHER: &str = "123456789012";
    check("f", None, Some((OURS, "f", None)));
    check("f:$LATEST", None, Some((OURS, "f", Some("$LATEST"))));
    check("f:7", None, Some((OURS, "f", Some("7"))));
    check("f", Some("live"), Some((OURS, "f", Some("live"))));
    check("f", Some(""), Some((OURS, "f", None)));
    check("f:live", Some("live"), Some((OURS, "f", Some("live"))));
    check("function:f", None, Some((OURS, "f", None)));
    check("123456789012:function:f:live", None, Some((OTHER, "f", Some("live"))));
    check("us-east-1:123456789012:function:f", None, Some((OTHER, "f", None)));
    check(
        "arn:aws:lambda:us-east-1:123456789012:function:f:$LATEST",
        None,
        Some((OTHER, "f", Some("$LATEST"))),
    );
    check(
        "arn:aws-us-gov:lambda:us-gov-west-1:123456789012:function:f",
        None,
        Some((OTHER, "f", None)),
    );
}

#[test]
fn what_names_no_function_is_refused() {
    let long = "x".repeat(65);
    let bad = [
        "",
        "a b",
        "a/b",
        "f:",
        "f:a:b",
        "f:$OLDEST",
        "f:007",
        ":f",
        "$LATEST",
        "arn:aws:s3:us-east-1:123456789012:function:f",
        "arn:aws:lambda:us-east-1:123456789012:layer:f",
        "arn:aws:lambda:us-east-1:12345:function:f",
        "arn:aws:lambda:us-east-1:123456789012:function:",
        "x:y:123456789012:function:f",
        &long,
    ];
    for text in bad {
        check(text, None, None);
    }
    let mismatch = FunctionRef::parse("f:1", Some("2"), &caller()).unwrap_err();
    assert!(mismatch.is_qualifier_mismatch());
    assert!(FunctionRef::parse("f", Some("a b"), &caller()).is_err());
}

#[test]
fn an_alias_is_not_a_number() {
    assert!("12".parse::<AliasName>().is_err());
    assert!("v12".parse::<AliasName>().is_ok());
    assert!("x".repeat(129).parse::<AliasName>().is_err());
}

proptest! {
    #[test]
    fn every_form_of_a_reference_reads_the_same(
        name in "[A-Za-z0-9_-]{1,64}",
        alias in "[A-Za-z_-][A-Za-z0-9_-]{0,100}",
        number in any::<u64>(),
        which in 0..3,
    ) {
        // `function` as a name is read as the marker, as the service does.
        prop_assume!(name != "function");
        let qualifier = match which {
            0 => None,
            1 => Some(Qualifier::Alias(AliasName(alias.into()))),
            _ => Some(Qualifier::Version(Version::Number(number))),
        };
        let account: AccountId = "123456789012".parse().unwrap();
        let expected = FunctionRef { account: account.clone(), name: FunctionName(name.clone().into()), qualifier };
        let suffix = expected.qualifier.as_ref().map(|q| format!(":{q}")).unwrap_or_default();
        for prefix in ["", "function:", "123456789012:function:", "arn:aws:lambda:eu-west-3:123456789012:function:"] {
            let text = format!("{prefix}{name}{suffix}");
            prop_assert_eq!(FunctionRef::parse(&text, None, &account), Ok(expected.clone()));
        }
    }

    #[test]
    fn no_text_makes_the_parser_panic(text in "\\PC{0,80}", qualifier in proptest::option::of("\\PC{0,20}")) {
        let _ = FunctionRef::parse(&text, qualifier.as_deref(), &caller());
    }
}
