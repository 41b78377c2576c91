//! The example policies with a few characters changed: whatever somebody types, it is read or refused with a place.

use proptest::prelude::*;

use super::*;

fn shipped() -> Vec<(String, String)> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../policies/examples/react-and-crm");
    let mut files: Vec<(String, String)> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| {
            (path.file_name().unwrap().to_string_lossy().into_owned(), fs::read_to_string(path).unwrap())
        })
        .collect();
    files.sort();
    files
}

fn edit() -> impl Strategy<Value = (usize, usize, usize, &'static str)> {
    let inserts = [
        "", "\"", "é", "\n", "[", "]]", "{", "(", ";", "::", "@", "\\", "\u{202e}", "= 1\n", "0", "//", "*",
        "\0",
    ];
    (0_usize..7, 0_usize..10_000, 0_usize..12, proptest::sample::select(inserts.to_vec()))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn nothing_typed_into_a_policy_file_brings_the_reader_down(edits in proptest::collection::vec(edit(), 1..4)) {
        let mut files = shipped();
        for (file, at, cut, insert) in edits {
            let count = files.len();
            let text = &mut files[file % count].1;
            let floor = |mut at: usize| {
                at = at.min(text.len());
                while !text.is_char_boundary(at) {
                    at -= 1;
                }
                at
            };
            let start = floor(at % (text.len() + 1));
            let end = floor(start + cut);
            text.replace_range(start..end.max(start), insert);
        }
        let borrowed: Vec<(&str, &str)> = files.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
        for mistake in mistakes(&borrowed) {
            let place: Vec<&str> = mistake.split(": ").next().unwrap_or_default().rsplitn(3, ':').collect();
            prop_assert!(place.len() == 3 && place[..2].iter().all(|number| number.parse::<usize>().is_ok()), "{}", mistake);
        }
    }
}
