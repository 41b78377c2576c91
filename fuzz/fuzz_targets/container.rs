//! No cgroup path and no runtime's file makes the readers panic, or gives a container, a pod or an image that is no plain word.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tidegate::identity::container::{Kind, contained, image_in};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(path) = std::str::from_utf8(bytes) {
        let found = contained(path);
        let plain = |text: &String| {
            text.len() <= 64 && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b))
        };
        assert!([found.container, found.pod].iter().flatten().all(plain));
    }
    for kind in [Kind::Docker, Kind::Bundle] {
        assert!(image_in(kind, bytes).is_none_or(|image| image.bytes().all(|b| b.is_ascii_graphic())));
    }
});
