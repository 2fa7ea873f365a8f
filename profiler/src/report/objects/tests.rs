use std::time::Duration;

use super::{export, graph, table, *};
use crate::objects::{made, watch::Grown};

fn report() -> ObjectsReport {
    ObjectsReport {
        pid: 4242,
        command: "gunicorn shop.wsgi\x1b[2J".to_owned(),
        version: "3.12.1".to_owned(),
        account: made::census(&made::memory()).unwrap(),
        growth: None,
        referrers: None,
        largest: None,
        by: ObjectsBy::Type,
        top: 20,
    }
}

fn grown() -> Growth {
    let after = report().account;
    Growth::between(&Account::default(), &after).unwrap()
}

fn written(write: impl Fn(&mut dyn std::io::Write) -> anyhow::Result<()>) -> String {
    let mut bytes = Vec::new();
    write(&mut bytes).unwrap();
    String::from_utf8(bytes).unwrap()
}

#[test]
fn the_report_fits_80_columns_and_only_reads() {
    for by in [ObjectsBy::Type, ObjectsBy::Module, ObjectsBy::Holder] {
        let report = ObjectsReport { by, ..report() };
        let text = table::text(&report, 80);
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
        assert!(!text.contains('\x1b'), "{text}");
        assert!(text.contains("app.cache: list → Foo"), "{text}");
    }
    let report = ObjectsReport {
        growth: Some((grown(), Duration::from_secs(60))),
        ..report()
    };
    let text = table::text(&report, 80);
    assert!(text.contains("+3") && text.contains("in 60 s:"), "{text}");
}

#[test]
fn rows_by_holder_and_by_module_add_up_to_all_objects() {
    let account = report().account;
    for by in [ObjectsBy::Type, ObjectsBy::Module, ObjectsBy::Holder] {
        let rows = rows::sums(&account, by);
        let objects: u64 = rows.iter().map(|(_, sums)| sums.objects).sum();
        assert_eq!(objects, account.total().objects);
        let changes = rows::changes(&grown(), by);
        let more: i64 = changes.iter().map(|(_, change)| change.objects).sum();
        assert_eq!(more, account.total().objects.cast_signed());
    }
}

#[test]
fn json_has_its_version_and_folded_lines_their_holders() {
    let json: serde_json::Value = serde_json::from_str(&written(|out| export::write_json(&report(), out))).unwrap();
    assert_eq!(json["version"], 1);
    let first = json["holders"].as_array().unwrap().iter();
    let foo = first
        .into_iter()
        .find(|row| row["holder"] == "app.cache: list → Foo")
        .unwrap();
    assert_eq!((&foo["objects"], &foo["root"]["kind"]), (&3.into(), &"module".into()));
    let folded = written(|out| export::write_folded(&report(), out));
    assert!(folded.contains("app;app.cache;list;Foo 144\n"), "{folded}");
}

#[test]
fn a_graph_has_an_edge_for_each_box_but_the_first() {
    let dot = written(|out| graph::write_dot(&report(), out));
    let boxes = dot.matches("[label=").count();
    assert_eq!(dot.matches(" -> ").count(), boxes - 1);
    assert!(dot.contains("app.cache: list") && !dot.contains('\x1b'), "{dot}");
    let svg = written(|out| graph::write_svg(&report(), out));
    assert_eq!(svg.matches("<g>").count(), boxes);
}

#[test]
fn the_first_block_of_memory_names_who_holds_what_became_more() {
    let process = Grown {
        pid: 4242,
        command: "shop".to_owned(),
        growth: grown(),
        length: Duration::from_secs(30),
        took: [Duration::from_millis(210), Duration::from_millis(230)],
    };
    let text = grown::text(std::slice::from_ref(&process), 80);
    assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    assert!(text.contains("app.cache: list → Foo"), "{text}");
    let lines = grown::lines(&[process]);
    assert_eq!(lines.len(), 1);
    let still = Grown {
        pid: 1,
        command: "idle".to_owned(),
        growth: Growth::default(),
        length: Duration::from_secs(30),
        took: [Duration::ZERO; 2],
    };
    assert!(grown::text(&[still], 80).contains("nothing became more"));
}
