//! Surges, told where an operator looks: the log and the record.

use tokio::sync::mpsc;

use crate::record::Recorder;
use crate::record::entry::{Event, Surged};
use crate::signals::Surge;

/// Tells each surge as it comes, until nobody can notice one any more.
pub(super) async fn tell(recorder: Recorder, mut surges: mpsc::Receiver<Surge>) {
    while let Some(surge) = surges.recv().await {
        let Surge { at, kind, target, name, subject, count, expected } = surge;
        tracing::warn!(
            what = kind.name(), %target, %name, subject = subject.as_deref().unwrap_or("-"), count, expected,
            "a surge: far more than is usual"
        );
        let what = kind.name().to_owned();
        let surged = Surged { at, what, target, name, subject, count, expected };
        if let Err(error) = recorder.append(Event::Surged(surged)) {
            tracing::error!(%error, "a surge could not be recorded");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddr};
    use std::path::Path;
    use std::time::Duration;

    use super::*;
    use crate::operation::{Direction, SessionId};
    use crate::record::entry::{Micros, SessionOpened};
    use crate::record::operations::Look;
    use crate::record::read::Reader;
    use crate::signals::Signals;

    const MINUTE: Micros = 60_000_000;

    fn opened(at: Micros) -> Event {
        let peer = SocketAddr::from((Ipv4Addr::LOCALHOST, 1)).to_string();
        Event::SessionOpened(SessionOpened {
            session: SessionId(uuid::Uuid::now_v7()),
            at,
            direction: Direction::Outbound,
            destination: peer.clone(),
            peer,
            workload: None,
            guard: None,
            target: Some("crm".into()),
        })
    }

    fn on_record(state: &Path) -> Vec<Surged> {
        let mut told = Vec::new();
        let look = Look { since: None, limit: usize::MAX, ends: None };
        let taken = Reader::open(state).unwrap().gate_events(look, &mut |event| {
            if let Event::Surged(surged) = event {
                told.push(surged.clone());
            }
            true
        });
        taken.unwrap();
        told
    }

    #[tokio::test]
    async fn a_surge_is_on_record_once_with_what_is_usual() {
        let dir = tempfile::tempdir().unwrap();
        let (signals, surges) = Signals::new(0);
        let seen = signals.clone();
        let recorder = Recorder::open(dir.path()).unwrap().observed(move |event| signals.saw(event));
        let telling = tokio::spawn(tell(recorder.clone(), surges));
        for minute in 0..15 {
            recorder.append(opened(minute * MINUTE)).unwrap().await.unwrap();
        }
        for n in 0..40 {
            recorder.append(opened(15 * MINUTE + n)).unwrap().await.unwrap();
        }
        assert_eq!(seen.surges(16 * MINUTE), 1);
        assert_eq!(seen.surges(16 * 60 * MINUTE), 0, "an hour later it is no news");
        let told = loop {
            let told = on_record(dir.path());
            if !told.is_empty() {
                break told;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        };
        assert_eq!(told.len(), 1);
        assert_eq!((told[0].what.as_str(), told[0].target.as_str()), ("sessions", "crm"));
        assert!(told[0].expected < 2.0 && told[0].count >= 10, "{told:?}");
        telling.abort();
        recorder.close();
    }
}
