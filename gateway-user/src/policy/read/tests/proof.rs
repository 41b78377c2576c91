//! Mistakes in the ways that users come into a role: claims, token life, static keys.

use super::*;

fn role(text: &str) -> Vec<String> {
    mistakes(&[("a.toml", NOUNS), ("b.toml", &format!("[[role]]\nname = \"r\"\n{text}\n"))])
}

#[test]
fn ways_into_a_role_that_mean_something_are_taken() {
    let digest = "a".repeat(64);
    for sound in [
        "claims = { department = \"ml\", \"realm.roles\" = [\"a\", \"b\"], mfa = true, level = 3 }",
        "groups = [\"g\"]\nmax_token_life = \"1h\"",
        "claims = { mfa = true }\nprovider = \"corp\"\nmax_token_life = \"15m\"",
        &format!("key_sha256 = \"{digest}\""),
        &format!("key_sha256 = [\"sha256:{digest}\"]\nkey_header = \"X-Api-Key\""),
    ] {
        assert_eq!(role(sound), Vec::<String>::new(), "{sound}");
    }
}

#[test]
fn ways_into_a_role_that_mean_nothing_are_refused_where_they_stand() {
    let digest = "a".repeat(64);
    for (text, place, says) in [
        ("claims = {}", "b.toml:3:10: ", "`claims` is empty"),
        ("claims = [\"a\"]", "b.toml:3:10: ", "a table"),
        ("claims = { a = 1.5 }", "b.toml:3:16: ", "a string, true or false"),
        ("claims = { a = [] }", "b.toml:3:16: ", "a string, true or false"),
        ("claims = { a = [\"x\", { b = 1 }] }", "b.toml:3:16: ", "a string, true or false"),
        ("max_token_life = \"1h\"", "b.toml:3:18: ", "names nobody's token"),
        ("uids = [1]\nmax_token_life = \"1h\"", "b.toml:4:18: ", "names nobody's token"),
        ("groups = [\"g\"]\nmax_token_life = \"0s\"", "b.toml:4:18: ", "zero"),
        ("key_sha256 = \"secret\"", "b.toml:3:14: ", "no SHA-256 digest"),
        (
            "key_sha256 = \"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855\"",
            "b.toml:3:14: ",
            "digest of nothing",
        ),
        ("uids = [1]\nkey_header = \"x-api-key\"", "b.toml:4:14: ", "names no key"),
        (
            &format!("key_sha256 = \"{digest}\"\nkey_header = \"cookie\""),
            "b.toml:4:14: ",
            "a meaning of its own",
        ),
        (&format!("key_sha256 = \"{digest}\"\nkey_header = \"x api\""), "b.toml:4:14: ", "no header field"),
        (&format!("key_sha256 = [\"{digest}\", \"{digest}\"]"), "b.toml:3:83: ", "twice"),
        ("", "b.toml:2:8: ", "nobody can have the role `r`"),
    ] {
        let found = role(text);
        assert_eq!(found.len(), 1, "{text}: {found:#?}");
        assert!(found[0].starts_with(place) && found[0].contains(says), "{text}: {found:#?}");
    }
}

#[test]
fn no_identity_provider_takes_the_name_that_static_keys_have() {
    let provider = NOUNS.replace("name = \"corp\"", "name = \"key\"");
    only(&[("a.toml", &provider)], "a.toml:25:8", &["static keys"]);
}
