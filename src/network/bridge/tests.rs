//! The built-in network on a host of each test's own: a network namespace.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc;

use super::*;
use crate::network::request::PortMapping;
use crate::network::rules::Verdict;

/// Does something on a host of the test's own.
fn on_a_host(test: impl FnOnce(&Path) + Send) {
    let host = namespace::make().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let tested = namespace::within(&host, || {
        test(directory.path());
        Ok(())
    });
    tested.unwrap();
}

fn bridge(dir: &Path) -> Bridge {
    with_subnets(dir, vec!["10.9.0.0/24".parse().unwrap(), "fd09::/64".parse().unwrap()])
}

fn with_subnets(dir: &Path, subnets: Vec<Subnet>) -> Bridge {
    let forwarding = dir.join("forwarding.json");
    let settings = BridgeSettings { name: "roost-t".to_owned(), subnets, forwarding };
    Bridge::new(settings, "a-boot".parse().unwrap(), &[])
}

/// An agent that has just been started, and knows nothing of what was made.
fn next(bridge: &Bridge, subnets: &[Subnet]) -> Bridge {
    Bridge::new(bridge.settings.clone(), bridge.boot.clone(), subnets)
}

fn pod(bridge: &Bridge, place: u8, host_port: Option<u16>) -> ByBridge {
    let subnets = bridge.subnets().unwrap();
    let all = [format!("10.9.0.{place}"), format!("fd09::{place}")];
    let addresses = all.iter().take(subnets.len()).map(|ip| ip.parse().unwrap()).collect();
    let port = |host_port| PortMapping {
        host_port,
        container_port: 80,
        protocol: "tcp".to_owned(),
        host_ip: None,
    };
    let ports = host_port.map(port).into_iter().collect();
    ByBridge { link: format!("roost-t{place}"), subnets, addresses, mac: None, ports }
}

fn ports(pods: &[ByBridge]) -> Vec<PortRule> {
    let of = |pod: &ByBridge| {
        let rule = |to: &IpAddr| PortRule {
            pod: "default/web".parse().unwrap(),
            mapping: pod.ports[0].clone(),
            to: *to,
        };
        let to = pod.addresses.iter().filter(|_| !pod.ports.is_empty());
        to.map(rule).collect::<Vec<_>>()
    };
    pods.iter().flat_map(of).collect()
}

/// A server in a pod that says `hello` and from where it was asked.
fn serve(namespace: &OwnedFd) {
    let (listening, listener) = mpsc::channel();
    let listen = || {
        listening
            .send(TcpListener::bind("[::]:80").or_else(|_| TcpListener::bind("0.0.0.0:80")))
            .unwrap();
        Ok(())
    };
    namespace::within(namespace, listen).unwrap();
    let listener = listener.recv().unwrap().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let peer = stream.peer_addr().unwrap().ip().to_canonical();
            stream.write_all(format!("hello {peer}").as_bytes()).unwrap();
        }
    });
}

fn ask(address: &str) -> io::Result<String> {
    ask_within(address, 5)
}

/// Within so many seconds.
fn ask_within(address: &str, time: u64) -> io::Result<String> {
    let address: SocketAddr = address.parse().unwrap();
    let mut stream = TcpStream::connect_timeout(&address, core::time::Duration::from_secs(time))?;
    stream.set_read_timeout(Some(core::time::Duration::from_secs(time)))?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

#[test]
fn pods_and_the_host_reach_each_other_and_ports_of_the_host_lead_to_pods() {
    on_a_host(|dir| {
        let bridge = bridge(dir);
        let (web, other) = (pod(&bridge, 7, Some(8080)), pod(&bridge, 8, None));
        let (in_web, in_other) = (namespace::make().unwrap(), namespace::make().unwrap());
        let wanted = ports(&[web.clone(), other.clone()]);
        bridge.add(&web, "eth0", &in_web, &|| wanted.clone()).unwrap();
        bridge.add(&other, "eth0", &in_other, &|| wanted.clone()).unwrap();
        serve(&in_web);
        let from_host = ask("10.9.0.7:80").unwrap();
        assert_eq!(from_host, "hello 10.9.0.1");
        for by in ["10.9.0.1:8080", "127.0.0.1:8080"] {
            assert_eq!(ask(by).unwrap(), "hello 10.9.0.1", "{by}");
        }
        let from_pods = |namespace: &OwnedFd, address: &str, expected: &str| {
            let asked = || {
                assert_eq!(ask(address).expect(address), expected);
                Ok(())
            };
            namespace::within(namespace, asked).unwrap();
        };
        from_pods(&in_other, "10.9.0.7:80", "hello 10.9.0.8");
        // By the host and back, and a pod to itself.
        from_pods(&in_other, "10.9.0.1:8080", "hello 10.9.0.1");
        from_pods(&in_web, "10.9.0.1:8080", "hello 10.9.0.1");
        if web.addresses.len() > 1 {
            assert_eq!(ask("[fd09::7]:80").unwrap(), "hello fd09::1");
            assert_eq!(ask("[fd09::1]:8080").unwrap(), "hello fd09::1");
            // Not routed by the kernel: refused at once, so that 127.0.0.1 is asked next.
            let refused = ask("[::1]:8080").unwrap_err();
            assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
            from_pods(&in_other, "[fd09::7]:80", "hello fd09::8");
            from_pods(&in_other, "[fd09::1]:8080", "hello fd09::1");
        }
        bridge.remove(&web, &Vec::new).unwrap();
        assert!(ask("127.0.0.1:8080").is_err());
        assert_eq!(links::index(&web.link).unwrap(), None);
        bridge.remove(&web, &Vec::new).unwrap();
        drop(in_other);
    });
}

#[test]
fn what_somebody_has_broken_is_made_good() {
    on_a_host(|dir| {
        let bridge = bridge(dir);
        let web = pod(&bridge, 7, Some(8080));
        let namespace = namespace::make().unwrap();
        let wanted = ports(std::slice::from_ref(&web));
        let all = || wanted.clone();
        bridge.add(&web, "eth0", &namespace, &all).unwrap();
        let pods = [web.clone()];
        assert!(!bridge.restore(&pods, &all).unwrap(), "nothing was broken");
        serve(&namespace);

        nft::replace("roost-t", &[]).unwrap();
        assert!(bridge.restore(&pods, &all).unwrap());
        Links::open().unwrap().remove("roost-t").unwrap();
        bridge.restore(&pods, &all).unwrap();
        assert_eq!(ask("127.0.0.1:8080").unwrap(), "hello 10.9.0.1");

        // An agent that has just been started knows nothing of it.
        let next = next(&bridge, &web.subnets);
        assert!(!next.restore(&pods, &all).unwrap());
        let other = PortRule { pod: "default/late".parse().unwrap(), ..wanted[0].clone() };
        assert!(next.restore(&pods, &|| vec![other.clone()]).unwrap());
        let heard = links::changes().unwrap();
        assert!(!next.restore(&pods, &|| vec![other.clone()]).unwrap());
        assert!(!is_readable(&heard), "looking changes nothing");
    });
}

fn is_readable(netlink: &super::super::netlink::Netlink) -> bool {
    use std::os::fd::AsRawFd as _;
    let mut byte = [0];
    let flags = nix::sys::socket::MsgFlags::MSG_DONTWAIT | nix::sys::socket::MsgFlags::MSG_PEEK;
    nix::sys::socket::recv(netlink.as_raw_fd(), &mut byte, flags).is_ok()
}

#[test]
fn a_pod_that_never_came_to_be_is_undone_where_nothing_can_be_made() {
    on_a_host(|dir| {
        let bridge = bridge(dir);
        let web = pod(&bridge, 7, Some(8080));
        bridge.remove(&web, &Vec::new).unwrap();
        assert!(!nft::is_there("roost-t").unwrap());
    });
}

#[test]
fn a_subnet_that_the_host_has_a_route_into_is_passed_over_or_refused() {
    on_a_host(|dir| {
        let links = Links::open().unwrap();
        links.make_bridge("lan", [2, 0, 0, 0, 0, 1]).unwrap();
        let index = links::index("lan").unwrap().unwrap();
        let lan = Subnet::around("10.0.0.0".parse().unwrap(), 8);
        links.add_address(index, "10.1.2.3".parse().unwrap(), &lan).unwrap();
        let chosen = with_subnets(dir, Vec::new());
        assert_eq!(chosen.subnets().unwrap()[0].to_string(), "172.29.0.0/16");
        let error = bridge(dir).subnets().unwrap_err().to_string();
        assert!(error.contains("routes into 10.9.0.0/24") && error.contains("agent.toml"));
    });
}

/// Another machine on a network that the host is in too, with the host as its way out.
fn neighbour(number: u8) -> OwnedFd {
    let namespace = namespace::make().unwrap();
    let links = Links::open().unwrap();
    let subnet = Subnet::around(format!("192.0.{number}.0").parse().unwrap(), 24);
    let at = |place: u8| format!("192.0.{number}.{place}").parse().unwrap();
    let here = format!("lan{number}");
    let mac = [2, 0, 0, 0, 1, number];
    links.make_bridge(&format!("br{number}"), [2, 0, 0, 0, 0, number]).unwrap();
    let bridge = links::index(&format!("br{number}")).unwrap().unwrap();
    let pair = Pair { here: &here, bridge, there: "eth0", namespace: namespace.as_fd(), mac };
    links.make_pair(&pair).unwrap();
    links.add_address(bridge, at(1), &subnet).unwrap();
    let set_up = || {
        let links = Links::open()?;
        let index = links::index("eth0")?.unwrap();
        links.bring_up(index)?;
        links.add_address(index, at(7), &subnet)?;
        links.add_default_route(at(1))
    };
    namespace::within(&namespace, set_up).unwrap();
    namespace
}

fn ask_from(namespace: &OwnedFd, address: &str, time: u64) -> io::Result<String> {
    let (told, answer) = mpsc::channel();
    namespace::within(namespace, || {
        told.send(ask_within(address, time)).map_err(io::Error::other)
    })?;
    answer.recv().map_err(io::Error::other)?
}

#[test]
fn the_host_is_no_router_for_anybody_but_pods_unless_somebody_else_makes_it_one() {
    on_a_host(|dir| {
        let (inside, outside) = (neighbour(2), neighbour(3));
        let bridge = bridge(dir);
        let web = pod(&bridge, 7, Some(8080));
        let in_web = namespace::make().unwrap();
        let wanted = ports(std::slice::from_ref(&web));
        bridge.add(&web, "eth0", &in_web, &|| wanted.clone()).unwrap();
        serve(&in_web);
        serve(&outside);
        let reach_each_other = |are_routed: bool| {
            assert_eq!(ask_from(&in_web, "192.0.3.7:80", 5).unwrap(), "hello 192.0.3.1");
            assert_eq!(ask_from(&inside, "192.0.2.1:8080", 5).unwrap(), "hello 192.0.2.7");
            let by_address = ask_from(&inside, "10.9.0.7:80", 1);
            assert_eq!(by_address.unwrap_err().kind(), io::ErrorKind::TimedOut);
            let across = ask_from(&inside, "192.0.3.7:80", if are_routed { 5 } else { 1 });
            assert_eq!(across.is_ok(), are_routed, "{across:?}");
        };
        reach_each_other(false);
        assert_eq!(sysctl::get("ipv4/conf/all/forwarding").unwrap(), "0", "it is not ours");

        // The next agent knows what was opened by this one.
        let pods = [web.clone()];
        let next = next(&bridge, &web.subnets);
        assert!(!next.restore(&pods, &|| wanted.clone()).unwrap());
        reach_each_other(false);

        // Somebody makes a router of it, and then none again, which stops everything.
        for (switch, are_routed) in [("1", true), ("0", false)] {
            set("ipv4/conf/all/forwarding", switch).unwrap();
            assert!(next.restore(&pods, &|| wanted.clone()).unwrap());
            assert!(!next.restore(&pods, &|| wanted.clone()).unwrap());
            reach_each_other(are_routed);
        }
    });
}

#[test]
fn rules_that_look_like_ours_are_replaced_if_they_are_not() {
    on_a_host(|dir| {
        let bridge = bridge(dir);
        let web = pod(&bridge, 7, Some(8080));
        let namespace = namespace::make().unwrap();
        let wanted = ports(std::slice::from_ref(&web));
        let all = || wanted.clone();
        bridge.add(&web, "eth0", &namespace, &all).unwrap();
        let rules = bridge.lock().rules.clone().unwrap();
        let mut harmless = rules.clone();
        for rule in &mut harmless {
            if rule.verdict == Verdict::Drop {
                rule.verdict = Verdict::Accept;
            }
        }
        nft::replace("roost-t", &harmless).unwrap();
        assert!(!nft::is_like("roost-t", &rules).unwrap());
        assert!(bridge.restore(std::slice::from_ref(&web), &all).unwrap());
        assert!(nft::is_like("roost-t", &rules).unwrap());
    });
}

#[test]
fn an_interface_of_somebody_else_is_left_alone() {
    on_a_host(|dir| {
        let links = Links::open().unwrap();
        let bridge = bridge(dir);
        let web = pod(&bridge, 7, None);
        let namespace = namespace::make().unwrap();
        let refused = || {
            let error = bridge.add(&web, "eth0", &namespace, &Vec::new).unwrap_err();
            let error = error.to_string();
            assert!(
                error.contains("`roost-t` is there") && error.contains("agent.toml"),
                "{error}"
            );
            assert!(!nft::is_there("roost-t").unwrap());
            error
        };
        links.make_bridge("roost-t", [2, 0, 0, 0, 0, 1]).unwrap();
        assert!(refused().contains("a bridge without an alias"));
        let index = links::index("roost-t").unwrap().unwrap();
        links.set_alias(index, "the lab").unwrap();
        assert!(refused().contains("a bridge with the alias `the lab`"));
        assert!(links.addresses_of(index).unwrap().iter().all(|(ip, _)| ip.is_ipv6()));
        links.remove("roost-t").unwrap();

        // One that an agent had made when it was killed is its own.
        let gateways: Vec<IpAddr> = web.subnets.iter().map(Subnet::gateway).collect();
        links.make_bridge("roost-t", mac_of(&gateways)).unwrap();
        bridge.add(&web, "eth0", &namespace, &Vec::new).unwrap();
        let made = links.all().unwrap().into_iter().find(|link| link.name == "roost-t").unwrap();
        assert_eq!(made.alias, format!("roost: pods of {}", dir.display()));
    });
}

#[test]
fn what_the_bridge_has_lost_it_gets_back() {
    on_a_host(|dir| {
        let bridge = bridge(dir);
        let web = pod(&bridge, 7, Some(8080));
        let namespace = namespace::make().unwrap();
        let wanted = ports(std::slice::from_ref(&web));
        let all = || wanted.clone();
        bridge.add(&web, "eth0", &namespace, &all).unwrap();
        serve(&namespace);
        let is_whole = || {
            bridge.restore(std::slice::from_ref(&web), &all).unwrap();
            // What has lost an address forgets the connections that had it a little later
            // (`nf_nat_masq_schedule()`), and those of the next moment with them.
            let answer = (0..5).find_map(|_| ask_within("127.0.0.1:8080", 2).ok());
            assert_eq!(answer.unwrap(), "hello 10.9.0.1");
        };
        let links = Links::open().unwrap();
        let index = links::index("roost-t").unwrap().unwrap();
        links.remove_address(index, "10.9.0.1".parse().unwrap(), &web.subnets[0]).unwrap();
        is_whole();
        links.bring_down(index).unwrap();
        is_whole();
        set("ipv4/conf/roost-t/route_localnet", "0").unwrap();
        is_whole();
        set("ipv4/conf/roost-t/forwarding", "0").unwrap();
        is_whole();
        assert_eq!(sysctl::get("ipv4/conf/roost-t/forwarding").unwrap(), "1");
    });
}

#[test]
fn pods_stay_in_the_bridge_that_they_are_in_and_one_that_nobody_is_in_is_removed() {
    on_a_host(|dir| {
        let bridge = bridge(dir);
        let web = pod(&bridge, 7, Some(8080));
        let namespace = namespace::make().unwrap();
        let wanted = ports(std::slice::from_ref(&web));
        bridge.add(&web, "eth0", &namespace, &|| wanted.clone()).unwrap();
        serve(&namespace);
        let configured = |subnets: Vec<Subnet>| {
            let name = "roost-new".to_owned();
            let forwarding = bridge.settings.forwarding.clone();
            let settings =
                BridgeSettings { name, subnets: vec!["10.8.0.0/24".parse().unwrap()], forwarding };
            Bridge::new(settings, bridge.boot.clone(), &subnets)
        };
        let next = configured(web.subnets.clone());
        assert!(!next.restore(std::slice::from_ref(&web), &|| wanted.clone()).unwrap());
        assert_eq!(ask("127.0.0.1:8080").unwrap(), "hello 10.9.0.1");
        assert_eq!(links::index("roost-new").unwrap(), None);
        next.remove(&web, &Vec::new).unwrap();

        let last = configured(Vec::new());
        assert_eq!(links::index("roost-t").unwrap(), None);
        assert!(!nft::is_there("roost-t").unwrap());
        assert_eq!(last.subnets().unwrap()[0].to_string(), "10.8.0.0/24");
        assert_eq!(last.name(), "roost-new");
    });
}

#[test]
fn a_vpn_that_leads_everywhere_takes_no_subnet() {
    on_a_host(|dir| {
        let links = Links::open().unwrap();
        links.make_bridge("vpn", [2, 0, 0, 0, 0, 1]).unwrap();
        let index = links::index("vpn").unwrap().unwrap();
        for (address, length) in [("10.213.0.9", 16), ("129.0.0.1", 1)] {
            let address: IpAddr = address.parse().unwrap();
            links.add_address(index, address, &Subnet::around(address, length)).unwrap();
        }
        let chosen = with_subnets(dir, Vec::new());
        assert_eq!(chosen.subnets().unwrap()[0].to_string(), "172.29.0.0/16");
    });
}

#[test]
fn pods_have_ipv6_also_where_new_interfaces_have_none() {
    on_a_host(|dir| {
        if !sysctl::has_ipv6() {
            return;
        }
        let bridge = bridge(dir);
        let web = pod(&bridge, 7, None);
        let namespace = namespace::make().unwrap();
        let turn_off = || set("ipv6/conf/default/disable_ipv6", "1").map_err(io::Error::other);
        turn_off().unwrap();
        namespace::within(&namespace, turn_off).unwrap();
        bridge.add(&web, "eth0", &namespace, &Vec::new).unwrap();
        serve(&namespace);
        assert_eq!(ask("[fd09::7]:80").unwrap(), "hello fd09::1");
    });
}
