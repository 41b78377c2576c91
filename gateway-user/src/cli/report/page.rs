//! The page. Everything that came from outside is escaped twice over: for the reader's eye and for HTML.

use std::fmt::Write as _;

use jiff::{SignedDuration, Timestamp, tz::TimeZone};

use super::chart::{self, Layer};
use super::{LISTED_MAX, Review};
use crate::cli::output::{escape_line, span, time};
use crate::record::entry::Micros;
use crate::signals::{Kind, RateView, Surge};

/// Rows of one table. What is beyond is counted below it.
const ROWS_MAX: usize = 50;
/// Masks with a colour of their own.
const MASKS_SHOWN: usize = 5;
const MASK_CLASSES: [&str; MASKS_SHOWN] = ["m1", "m2", "m3", "m4", "m5"];

const STYLE: &str = "\
:root{color-scheme:light dark;--text:#1b1f24;--dim:#5b6570;--line:#d8dde3;--page:#fff;--card:#f5f7f9;\
--allow:#0f766e;--hold:#b45309;--deny:#b91c1c;--refuse:#64748b}\
@media(prefers-color-scheme:dark){:root{--text:#e6e9ed;--dim:#9aa4af;--line:#333b45;--page:#14181d;--card:#1d232a;\
--allow:#2dd4bf;--hold:#fbbf24;--deny:#f87171;--refuse:#94a3b8}}\
body{margin:0 auto;max-width:64rem;padding:2rem 1rem;font:15px/1.5 system-ui,sans-serif;color:var(--text);background:var(--page)}\
h1{margin:0;font-size:1.6rem}h2{margin:2.2rem 0 .6rem;font-size:1.15rem}p{margin:.3rem 0 .8rem}.dim,.none{color:var(--dim)}\
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(9rem,1fr));gap:.7rem;margin:1.2rem 0}\
.tile{background:var(--card);border-radius:.5rem;padding:.7rem .9rem}.tile b{display:block;font-size:1.5rem;line-height:1.2}\
.bad b{color:var(--deny)}.warn b{color:var(--hold)}\
svg{display:block;width:100%;height:auto}.spark{width:8rem;height:1.2rem}\
.grid{stroke:var(--line)}.tick{fill:var(--dim);font-size:12px}\
.allow{fill:var(--allow)}.hold{fill:var(--hold)}.deny{fill:var(--deny)}.refuse{fill:var(--refuse)}\
.m1{fill:#2563eb}.m2{fill:#db2777}.m3{fill:#65a30d}.m4{fill:#9333ea}.m5{fill:#ea580c}.m6{fill:var(--refuse)}\
.legend{display:flex;flex-wrap:wrap;gap:1rem;margin:.2rem 0 .6rem;color:var(--dim)}\
.legend svg{display:inline-block;width:.8rem;height:.8rem;margin-right:.35rem;vertical-align:-1px}\
.scroll{overflow-x:auto}table{border-collapse:collapse;width:100%}th{text-align:left;font-weight:600;color:var(--dim)}\
th,td{padding:.3rem .7rem .3rem 0;border-bottom:1px solid var(--line);vertical-align:top}\
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}code{font:13px/1.4 ui-monospace,monospace;overflow-wrap:anywhere}\
@media print{body{max-width:none;padding:0}h2{break-after:avoid}tr,svg{break-inside:avoid}}";

/// The whole page.
pub(super) fn html(review: &Review) -> String {
    let title = format!("Tidegate on {}", shown(&review.host));
    let mut page = format!(
        "<!doctype html><html lang=en><head><meta charset=utf-8>\
         <meta name=viewport content=\"width=device-width,initial-scale=1\">\
         <meta http-equiv=Content-Security-Policy content=\"default-src 'none'; style-src 'unsafe-inline'\">\
         <title>{title}</title><style>{STYLE}</style></head><body><h1>{title}</h1>\
         <p class=dim>{} to {}, {} events of the record.</p>",
        time(review.since),
        time(review.until),
        review.events,
    );
    tiles(&mut page, review);
    operations(&mut page, review);
    masks(&mut page, review);
    approvals(&mut page, review);
    surges(&mut page, review);
    rules(&mut page, review);
    unused(&mut page, review);
    subjects(&mut page, review);
    changes(&mut page, review);
    if review.signals.left_out > 0 {
        let _ = write!(
            page,
            "<p class=dim>{} events could not be counted under their own name: there are more names than are kept.</p>",
            review.signals.left_out
        );
    }
    page.push_str("</body></html>\n");
    page
}

fn tiles(page: &mut String, review: &Review) {
    let seen = &review.signals;
    let of = |name: &str| seen.total(Kind::Operations, name);
    let masked: u64 = seen.steps(Kind::Masked, None).iter().sum();
    let gaps = review.changes.iter().filter(|change| change.what == "gap").count();
    page.push_str("<div class=tiles>");
    for (count, what, class) in [
        (seen.total(Kind::Sessions, "opened"), "sessions", ""),
        (of("allow"), "operations allowed", ""),
        (of("deny"), "denied", if of("deny") > 0 { " bad" } else { "" }),
        (of("refuse"), "refused before judgement", ""),
        (of("hold"), "held for people", if of("hold") > 0 { " warn" } else { "" }),
        (masked, "values masked", ""),
        (seen.surges.len() as u64, "surges", if seen.surges.is_empty() { "" } else { " warn" }),
        (gaps as u64, "gaps in the record", if gaps > 0 { " bad" } else { "" }),
    ] {
        let _ = write!(page, "<div class=\"tile{class}\"><b>{count}</b>{what}</div>");
    }
    page.push_str("</div>");
}

fn operations(page: &mut String, review: &Review) {
    let layer = |name: &'static str| Layer {
        name: name.into(),
        class: name,
        counts: review.signals.steps(Kind::Operations, Some(name)),
    };
    chart(page, review, "Operations by verdict", &["deny", "refuse", "hold", "allow"].map(layer));
}

fn masks(page: &mut String, review: &Review) {
    let seen = &review.signals;
    let mut names: Vec<(&str, u64)> = Vec::new();
    for rate in seen.rates.iter().filter(|rate| rate.kind == Kind::Masked) {
        if !names.iter().any(|(name, _)| *name == rate.name) {
            names.push((&rate.name, seen.total(Kind::Masked, &rate.name)));
        }
    }
    names.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    let (own, other) = names.split_at(names.len().min(MASKS_SHOWN));
    let mut layers: Vec<_> = own
        .iter()
        .zip(MASK_CLASSES)
        .map(|((name, _), class)| Layer {
            name: shown(name),
            class,
            counts: seen.steps(Kind::Masked, Some(name)),
        })
        .collect();
    if !other.is_empty() {
        let mut counts = vec![0; layers.first().map_or(0, |layer| layer.counts.len())];
        for (name, _) in other {
            counts.iter_mut().zip(seen.steps(Kind::Masked, Some(name))).for_each(|(sum, more)| *sum += more);
        }
        layers.push(Layer { name: format!("{} others", other.len()), class: "m6", counts });
    }
    chart(page, review, "Values masked, by mask", &layers);
    let of_masks = seen.rates.iter().filter(|rate| rate.kind == Kind::Masked);
    rates(page, of_masks.collect(), "mask");
}

fn approvals(page: &mut String, review: &Review) {
    let layer = |(name, class): (&'static str, &'static str)| Layer {
        name: name.into(),
        class,
        counts: review.signals.steps(Kind::Approvals, Some(name)),
    };
    let layers = [("refused", "deny"), ("released", "allow"), ("asked", "hold")].map(layer);
    chart(page, review, "Holds: asked, released, refused", &layers);
    let approvals = &review.signals.approvals;
    if let (Some(median), Some(slow)) = (approvals.median_seconds, approvals.slow_seconds) {
        let long = |seconds: u64| span(SignedDuration::from_secs(i64::try_from(seconds).unwrap_or(i64::MAX)));
        let _ = write!(
            page,
            "<p>Half of the holds ended within {}, 95 of 100 within {}.</p>",
            long(median),
            long(slow)
        );
    }
    if !approvals.voters.is_empty() {
        let _ = write!(page, "<p>Votes: {}.</p>", named(&approvals.voters));
    }
}

fn surges(page: &mut String, review: &Review) {
    heading(page, "Surges", "Steps with far more than was usual until then, and who made most of them.");
    let row = |surge: &Surge| {
        vec![
            time(surge.at),
            shown(surge.kind.name()),
            code(&surge.target),
            code(&surge.name),
            number(surge.count),
            format!("{:.1}", surge.expected),
            surge.subject.as_deref().map_or_else(|| "-".into(), code),
        ]
    };
    let rows = review.signals.surges.iter().map(row).collect();
    table(page, &["when", "what", "target", "name", "#count", "#usual", "subject"], rows);
}

fn rules(page: &mut String, review: &Review) {
    heading(
        page,
        "Rules that refuse or hold most",
        "A forbid that is often hit is a rule people do not know, or an attempt.",
    );
    let hit = review.signals.rules.iter().filter(|rule| rule.denied + rule.held > 0);
    let mut hit: Vec<_> = hit.collect();
    hit.sort_by_key(|rule| std::cmp::Reverse(rule.denied + rule.held));
    let row = |rule: &&crate::signals::RuleView| {
        vec![code(&rule.rule), number(rule.denied), number(rule.held), time(rule.last), named(&rule.subjects)]
    };
    table(page, &["rule", "#denied", "#held", "last", "on whom"], hit.iter().map(row).collect());
}

fn unused(page: &mut String, review: &Review) {
    heading(
        page,
        "Permits nobody used",
        "Roles that are too broad: nothing was allowed by these in this time. `tidegate policy suggest` proposes narrower ones.",
    );
    if let Err(problems) = &review.policy {
        let _ = write!(
            page,
            "<p>The policy cannot be read, so nothing is compared:</p><pre>{}</pre>",
            html_text(problems)
        );
        return;
    }
    let row = |broad: &crate::signals::Broad| {
        vec![
            broad.role.as_deref().map_or_else(|| "-".into(), code),
            code(&broad.rule),
            code(&broad.permits),
            code(&broad.place),
        ]
    };
    table(page, &["role", "rule", "permits", "where"], review.unused.iter().map(row).collect());
}

fn subjects(page: &mut String, review: &Review) {
    heading(page, "Targets and who asks", "By target and verdict; the most frequent subjects of each.");
    let operations = review.signals.rates.iter().filter(|rate| rate.kind == Kind::Operations);
    rates(page, operations.collect(), "verdict");
}

fn changes(page: &mut String, review: &Review) {
    heading(
        page,
        "The gate itself",
        "Starts, changes of policy, and times without a record (nothing was forwarded in them).",
    );
    let row = |change: &super::Change| vec![time(change.at), shown(change.what), shown(&change.text)];
    table(page, &["when", "what", ""], review.changes.iter().map(row).collect());
    if review.more_changes > 0 {
        let _ = write!(page, "<p class=dim>{} more after the first {LISTED_MAX}.</p>", review.more_changes);
    }
}

fn rates(page: &mut String, mut rates: Vec<&RateView>, name: &str) {
    rates.sort_by_key(|rate| std::cmp::Reverse(rate.counts.iter().sum::<u64>()));
    let row = |rate: &&RateView| {
        vec![
            code(&rate.target),
            code(&rate.name),
            number(rate.counts.iter().sum()),
            chart::spark(&rate.counts),
            named(&rate.subjects),
        ]
    };
    table(page, &["target", name, "#count", "over time", "who"], rates.iter().map(row).collect());
}

fn chart(page: &mut String, review: &Review, title: &str, layers: &[Layer]) {
    heading(page, title, "");
    let step = i64::try_from(review.signals.step_seconds).unwrap_or(i64::MAX).saturating_mul(1_000_000);
    // The series ends with the step in which the time ends.
    let steps = layers.iter().map(|layer| layer.counts.len()).max().unwrap_or(0);
    let last = (review.until - 1).div_euclid(step.max(1));
    let first = (last + 1).saturating_sub(i64::try_from(steps).unwrap_or(0)).saturating_mul(step);
    page.push_str("<div class=legend>");
    for layer in layers {
        let total: u64 = layer.counts.iter().sum();
        let _ = write!(
            page,
            "<span><svg viewBox=\"0 0 8 8\" aria-hidden=true><rect class={} width=8 height=8 /></svg>{} {total}</span>",
            layer.class, layer.name
        );
    }
    page.push_str("</div>");
    page.push_str(&chart::bars(title, layers, first, step, short_time));
}

fn heading(page: &mut String, title: &str, note: &str) {
    let _ = write!(page, "<h2>{title}</h2>");
    if !note.is_empty() {
        let _ = write!(page, "<p class=dim>{note}</p>");
    }
}

/// A table of escaped cells. A heading that begins with `#` is one of numbers.
fn table(page: &mut String, header: &[&str], rows: Vec<Vec<String>>) {
    if rows.is_empty() {
        page.push_str("<p class=none>None.</p>");
        return;
    }
    let class =
        |at: usize| if header.get(at).is_some_and(|name| name.starts_with('#')) { " class=n" } else { "" };
    page.push_str("<div class=scroll><table><tr>");
    for (at, name) in header.iter().enumerate() {
        let _ = write!(page, "<th{}>{}</th>", class(at), name.trim_start_matches('#'));
    }
    page.push_str("</tr>");
    let total = rows.len();
    for row in rows.into_iter().take(ROWS_MAX) {
        page.push_str("<tr>");
        for (at, cell) in row.iter().enumerate() {
            let _ = write!(page, "<td{}>{cell}</td>", class(at));
        }
        page.push_str("</tr>");
    }
    page.push_str("</table></div>");
    if total > ROWS_MAX {
        let _ = write!(page, "<p class=dim>{} more.</p>", total - ROWS_MAX);
    }
}

fn named(names: &[(String, u64)]) -> String {
    let each = names.iter().map(|(name, count)| format!("{} {count}", code(name)));
    each.collect::<Vec<_>>().join(", ")
}

fn number(count: u64) -> String {
    count.to_string()
}

fn code(text: &str) -> String {
    format!("<code>{}</code>", shown(text))
}

/// Text on one line, with nothing in it that deceives the eye or is markup.
fn shown(text: &str) -> String {
    html_text(&escape_line(text))
}

fn html_text(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}

fn short_time(at: Micros) -> String {
    match Timestamp::from_microsecond(at) {
        Ok(at) => at.to_zoned(TimeZone::system()).strftime("%b %d %H:%M").to_string(),
        Err(_) => "-".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::signals::{ApprovalsView, Broad, RuleView, View};

    fn review() -> Review {
        let hostile = "<script>alert(1)</script>\u{202e}\"'&".to_owned();
        let rate = |kind, name: &str| RateView {
            kind,
            target: hostile.clone(),
            name: name.into(),
            counts: vec![1, 2],
            expected: 1.0,
            surging: false,
            subjects: vec![(hostile.clone(), 3)],
        };
        Review {
            host: hostile.clone(),
            since: 0,
            until: 120_000_000,
            policy: Ok("d".into()),
            signals: View {
                since: 0,
                now: 119_999_999,
                step_seconds: 60,
                live: Vec::new(),
                rates: vec![rate(Kind::Operations, "deny"), rate(Kind::Masked, &hostile)],
                approvals: ApprovalsView::default(),
                rules: vec![RuleView {
                    rule: hostile.clone(),
                    allowed: 0,
                    held: 0,
                    denied: 3,
                    last: 7,
                    subjects: vec![(hostile.clone(), 3)],
                }],
                held: Vec::new(),
                surges: Vec::new(),
                left_out: 0,
            },
            unused: vec![Broad {
                rule: hostile.clone(),
                role: Some(hostile.clone()),
                permits: hostile.clone(),
                place: hostile.clone(),
            }],
            changes: Vec::new(),
            more_changes: 0,
            events: 3,
        }
    }

    #[test]
    fn nothing_that_came_from_outside_is_markup_or_deceives_the_eye() {
        let page = html(&review());
        assert!(!page.contains("<script"), "{page}");
        assert!(!page.contains('\u{202e}'), "{page}");
        assert!(page.contains("&lt;script&gt;"), "{page}");
    }

    #[test]
    fn the_page_loads_nothing_and_runs_nothing() {
        let page = html(&review());
        for word in ["src=", "href=", "url(", "@import", "<link", "onload", "http:"] {
            assert!(!page.contains(word), "{word}");
        }
        assert!(page.contains("default-src 'none'"));
    }

    #[test]
    fn a_policy_that_cannot_be_read_is_said_and_nothing_is_called_unused() {
        let review = Review { policy: Err("a.toml:1:1: <b>".into()), ..review() };
        let page = html(&review);
        assert!(page.contains("a.toml:1:1: &lt;b&gt;"), "{page}");
    }
}
