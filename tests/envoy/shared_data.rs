//! A plugin with the same `vm_id` that overwrites what the workers share, in a real Envoy.

use std::path::PathBuf;

use portcullis_tests::envoy::{Plan, Plugin, cluster, settings};
use portcullis_tests::stage::eventually;
use serde_json::json;
use wasm_encoder::{
    BlockType, CodeSection, ConstExpr, DataSection, EntityType, ExportKind, ExportSection,
    Function, FunctionSection, GlobalSection, GlobalType, ImportSection, InstructionSink,
    MemorySection, MemoryType, Module, TypeSection, ValType,
};

use crate::greeter::Greeter;
use crate::scene::{agent, client, is_sound, ping, ping_becomes};

const DATA: &str = "ON_DOWNSTREAM_DATA";

/// How often it writes.
const EVERY_MS: i32 = 10;
/// What it logs when it begins in a VM, and when it ends.
const BEGUN: &str = "garbage from now on";
const ENDED: &str = "no more garbage";
/// Its own key: when there is something, it ends in all VMs.
const END: &str = "vandal/end";

/// What stands for a moment under each key.
fn garbage() -> Vec<Vec<u8>> {
    vec![
        Vec::new(),
        b"x".to_vec(),
        vec![0xff; 300],
        format!("{} 5 {:064x}", u64::MAX, 0).into_bytes(),
        format!("2 {} {:064x}", u64::MAX, 0).into_bytes(),
        format!("7 {}", u64::MAX).into_bytes(),
        br#"[{"SourceName":"*","DestinationName":"db","Action":"allow"}]"#.to_vec(),
        br#"{"trust_domain":"#.to_vec(),
        b"allow flag".to_vec(),
        "[".repeat(20_000).into_bytes(),
    ]
}

/// What the filter of `db` shares.
fn keys() -> Vec<String> {
    let mut keys = Vec::new();
    for what in [
        "roots",
        "intentions/default/default/db",
        "default-policy/default/default/db",
        "mesh-entry",
    ] {
        for part in ["leader", "head", "value"] {
            keys.push(format!("portcullis/1/agent/-/-/{what}/{part}"));
        }
    }
    keys
}

/// Bytes in the module's memory.
#[derive(Clone, Copy)]
struct Place {
    at: i32,
    size: i32,
}

impl Place {
    fn push(self, code: &mut InstructionSink<'_>) {
        code.i32_const(self.at).i32_const(self.size);
    }
}

/// A filter that on each tick writes another piece of garbage under each key, until its listener
/// gets a connection.
fn vandal() -> Vec<u8> {
    const PAGE: usize = 65_536;
    let mut memory = Vec::new();
    let mut put = |bytes: &[u8]| {
        let at = i32::try_from(memory.len()).expect("small");
        memory.extend_from_slice(bytes);
        Place {
            at,
            size: i32::try_from(bytes.len()).expect("small"),
        }
    };
    let keys: Vec<Place> = keys().iter().map(|key| put(key.as_bytes())).collect();
    let garbage: Vec<Place> = garbage().iter().map(|bytes| put(bytes)).collect();
    let (begun, ended, end) = (
        put(BEGUN.as_bytes()),
        put(ENDED.as_bytes()),
        put(END.as_bytes()),
    );
    // For what Envoy writes: bytes, their place and size, the number of the write.
    let scratch = put(&[0; 64]).at;
    let pages = memory.len().div_ceil(PAGE) as u64 + 1;

    let mut types = TypeSection::new();
    for (parameters, gives) in [
        (0, false),
        (1, false),
        (1, true),
        (2, true),
        (3, true),
        (5, true),
    ] {
        types.ty().function(
            vec![ValType::I32; parameters],
            gives.then_some(ValType::I32),
        );
    }
    let mut imports = ImportSection::new();
    for (name, kind) in [
        ("proxy_set_shared_data", 5),
        ("proxy_set_tick_period_milliseconds", 2),
        ("proxy_log", 4),
        ("proxy_get_shared_data", 5),
    ] {
        imports.import("env", name, EntityType::Function(kind));
    }
    let (write, set_period, log, read) = (0, 1, 2, 3);

    // How often it has written.
    let mut globals = GlobalSection::new();
    let kind = GlobalType {
        val_type: ValType::I32,
        mutable: true,
        shared: false,
    };
    globals.global(kind, &ConstExpr::i32_const(0));

    let (mut functions, mut exports, mut code) = (
        FunctionSection::new(),
        ExportSection::new(),
        CodeSection::new(),
    );
    let mut export = |index: u32, name: &str, kind: u32, body: Function| {
        functions.function(kind);
        exports.export(name, ExportKind::Func, index);
        code.function(&body);
    };
    let body = |fill: &dyn Fn(&mut InstructionSink<'_>)| {
        let mut body = Function::new([]);
        fill(&mut body.instructions());
        body.instructions().end();
        body
    };
    export(4, "proxy_abi_version_0_2_1", 0, body(&|_| {}));
    let nothing = body(&|code| {
        code.i32_const(scratch);
    });
    export(5, "proxy_on_memory_allocate", 2, nothing);
    let configure = body(&|code| {
        code.i32_const(EVERY_MS).call(set_period).drop();
        code.i32_const(3);
        begun.push(code);
        code.call(log).drop().i32_const(1);
    });
    export(6, "proxy_on_configure", 3, configure);
    let tick = body(&|code| {
        code.global_get(0).i32_const(1).i32_add().global_set(0);
        end.push(code);
        for place in [32, 36, 40] {
            code.i32_const(scratch + place);
        }
        code.call(read).i32_eqz().if_(BlockType::Empty);
        code.i32_const(0).call(set_period).drop();
        code.i32_const(3);
        ended.push(code);
        code.call(log).drop().return_().end();
        // Another piece each time, and another one under each key.
        for (piece, bytes) in (0..).zip(&garbage) {
            let count = i32::try_from(garbage.len()).expect("few");
            for (index, key) in (0..).zip(&keys) {
                code.global_get(0).i32_const(index).i32_add();
                code.i32_const(count).i32_rem_u().i32_const(piece).i32_eq();
                code.if_(BlockType::Empty);
                key.push(code);
                bytes.push(code);
                code.i32_const(0).call(write).drop().end();
            }
        }
    });
    export(7, "proxy_on_tick", 1, tick);
    let connection = body(&|code| {
        end.push(code);
        end.push(code);
        code.i32_const(0).call(write);
    });
    export(8, "proxy_on_new_connection", 2, connection);
    exports.export("memory", ExportKind::Memory, 0);

    let mut memories = MemorySection::new();
    memories.memory(MemoryType {
        minimum: pages,
        maximum: None,
        memory64: false,
        shared: false,
        page_size_log2: None,
    });
    let mut data = DataSection::new();
    data.active(0, &ConstExpr::i32_const(0), memory);
    let mut module = Module::new();
    module
        .section(&types)
        .section(&imports)
        .section(&functions)
        .section(&memories)
        .section(&globals)
        .section(&exports)
        .section(&code)
        .section(&data);
    module.finish()
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_overwrites_shared_data_opens_nothing_and_is_repaired() {
    let agent = agent().await;
    agent.allow("web", "db").expect("an intention");
    agent.allow("evil", "api").expect("an intention");
    let app = Greeter::start(b"").await;
    let plan = Plan::new(&agent, "db")
        .workers(2)
        .cluster(cluster("app", app.address));
    let module: PathBuf = plan.folder().join("vandal.wasm");
    std::fs::write(&module, vandal()).expect("it can be written");
    let hasty = |service: &str| {
        let mut plugin = Plugin::new(settings(service));
        plugin.configuration["start_wait_ms"] = json!(0);
        plugin
    };
    let (plan, db) = plan.tcp(&hasty("db"), DATA);
    let (plan, api) = plan.tcp(&hasty("api"), DATA);
    let mut plugin = Plugin::new(json!("{}"));
    plugin.module = Some(module);
    let (plan, vandal) = plan.tcp(&plugin, DATA);
    let Some(envoy) = plan.start("whoever_overwrites_shared_data_opens_nothing_and_is_repaired")
    else {
        return;
    };
    let evil = client(&agent, "evil", db);
    let web = client(&agent, "web", db);
    // The roots are shared by both services; the intentions of `api` are left alone.
    let other = client(&agent, "web", api);
    assert!(envoy.log().contains(BEGUN), "{}", envoy.log());
    for _ in 0..50 {
        assert_eq!(ping(&evil).await, None);
        assert_eq!(ping(&other).await, None);
        let _ = ping(&web).await;
    }
    assert!(!envoy.log().contains(ENDED), "{}", envoy.log());
    let _ = client(&agent, "web", vandal).try_connect().await;
    ping_becomes(&web, true).await;
    ping_becomes(&client(&agent, "evil", api), true).await;
    assert_eq!(ping(&evil).await, None);
    assert_eq!(ping(&other).await, None);
    agent.deny("web", "db").expect("an intention");
    ping_becomes(&web, false).await;
    eventually("it has ended", async || envoy.log().contains(ENDED)).await;
    is_sound(&envoy);
}
