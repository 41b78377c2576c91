//! Opens sockets where a test put this process, and hands them to the test. Does nothing unasked.

fn main() -> std::io::Result<()> {
    tidegate_tests::dialer::serve()
}
