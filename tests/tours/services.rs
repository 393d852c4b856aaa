//! Services: who stands behind them.

use k8s_openapi::api::core::v1::Endpoints;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::{Value, json};

use crate::bed::{Tour, name};

fn addresses(slices: &[Value], ready: bool) -> usize {
    let endpoints =
        slices.iter().flat_map(|slice| slice["endpoints"].as_array().into_iter().flatten());
    endpoints.filter(|it| it["conditions"]["ready"] == ready).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_shows_the_pods_behind_it_as_they_come_falter_and_go() {
    let tour = Tour::with_nodes(2).await;
    tour.run("create deployment web --image=web:1 --replicas=3 --port=8080").await;
    tour.run("expose deployment web --port=80 --target-port=8080").await;
    let of_web = "kubernetes.io/service-name=web";
    let pods = tour.until_ready("app=web", 3).await;
    let slices =
        tour.until_all::<EndpointSlice>(of_web, |slices| addresses(slices, true) == 3).await;
    assert_eq!(slices[0]["ports"][0]["port"], 8080);
    let endpoints = tour.until::<Endpoints>("web", |it| {
        it["subsets"][0]["addresses"].as_array().is_some_and(|all| all.len() == 3)
    });
    let endpoints = endpoints.await;
    for pod in &pods {
        let ip = pod["status"]["podIP"].as_str().unwrap();
        assert!(endpoints.to_string().contains(ip), "{ip} is missing in {endpoints}");
    }
    tour.run(&format!("annotate pod {} hollow.kontiki.io/does=unready", name(&pods[0]))).await;
    tour.until_all::<EndpointSlice>(of_web, |slices| {
        addresses(slices, true) == 2 && addresses(slices, false) == 1
    })
    .await;
    tour.until::<Endpoints>("web", |it| {
        it["subsets"][0]["notReadyAddresses"].as_array().is_some_and(|all| all.len() == 1)
    })
    .await;
    let described = tour.run("describe service web").await;
    assert!(described.contains("Endpoints:"), "{described}");
    tour.run("scale deployment web --replicas=1").await;
    tour.until_all::<EndpointSlice>(of_web, |slices| {
        addresses(slices, true) + addresses(slices, false) == 1
    })
    .await;
    tour.run("delete service web").await;
    tour.until_all::<EndpointSlice>(of_web, <[_]>::is_empty).await;
    tour.until_gone::<Endpoints>("web").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn endpoints_that_people_keep_are_mirrored_as_they_change_and_go() {
    let tour = Tour::with_nodes(1).await;
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "far"},
        "spec": {"ports": [{"port": 80}]}});
    tour.kubectl.apply(&service).await;
    let endpoints = |ip: &str| {
        json!({"apiVersion": "v1", "kind": "Endpoints", "metadata": {"name": "far"},
            "subsets": [{"addresses": [{"ip": ip}], "ports": [{"port": 9376}]}]})
    };
    let mirrored = "kubernetes.io/service-name=far,\
        endpointslice.kubernetes.io/managed-by=endpointslicemirroring-controller.k8s.io";
    let shows = |ip: &'static str| {
        move |slices: &[Value]| {
            slices.len() == 1
                && slices[0]["endpoints"][0]["addresses"] == json!([ip])
                && slices[0]["ports"][0]["port"] == 9376
        }
    };
    tour.kubectl.apply(&endpoints("192.0.2.1")).await;
    tour.until_all::<EndpointSlice>(mirrored, shows("192.0.2.1")).await;
    tour.kubectl.apply(&endpoints("192.0.2.2")).await;
    tour.until_all::<EndpointSlice>(mirrored, shows("192.0.2.2")).await;
    tour.run("delete endpoints far").await;
    tour.until_all::<EndpointSlice>(mirrored, <[_]>::is_empty).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_services_of_the_same_pods_all_show_them() {
    const SERVICES: usize = 100;
    let tour = Tour::with_nodes(1).await;
    tour.run("create deployment web --image=web:1 --replicas=2").await;
    tour.until_ready("app=web", 2).await;
    let services: Vec<Value> = (0..SERVICES)
        .map(|number| {
            json!({"apiVersion": "v1", "kind": "Service",
                "metadata": {"name": format!("s-{number}"), "labels": {"many": "yes"}},
                "spec": {"selector": {"app": "web"}, "ports": [{"port": 80}]}})
        })
        .collect();
    tour.kubectl.apply(&json!({"apiVersion": "v1", "kind": "List", "items": services})).await;
    tour.until_all::<EndpointSlice>("many=yes", |slices| addresses(slices, true) == 2 * SERVICES)
        .await;
    tour.until_all::<Endpoints>("many=yes", |all| {
        let full = |it: &&Value| {
            it["subsets"][0]["addresses"].as_array().is_some_and(|all| all.len() == 2)
        };
        all.iter().filter(full).count() == SERVICES
    })
    .await;
}
