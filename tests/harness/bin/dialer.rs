//! Opens sockets where a test put this process, and hands them to the test. With the word `hold` it is a test program
//! instead: makes a host, and waits to be interrupted. Does nothing else.

fn main() -> std::io::Result<()> {
    if std::env::args().nth(1).as_deref() != Some("hold") {
        return tidegate_tests::dialer::serve();
    }
    let host = tidegate_tests::Host::new();
    println!("host:{}", host.name());
    std::thread::sleep(tidegate_tests::PATIENCE);
    drop(host);
    Ok(())
}
