//! The program: arguments, environment, directory, user, limits and its rank for the
//! out-of-memory killer.
//!
//! Without an image HOME is the sandbox, the one place every user can write to: of the host's root
//! file system, `/root` is read-only, and programs would take up the keys and settings in it. With
//! one it is what the image says, or else what its `/etc/passwd` says (`users`).

use oci_spec::runtime::{PosixRlimitBuilder, PosixRlimitType, User};

use super::filesystem::SANDBOX;
use crate::containerizer::native::plan::{Context, ImageUser, Isolator, LaunchPlan, PlanError};
use crate::manifest::pod::{
    AbsolutePath, ContainerSpec, GroupsPolicy, PodSpec, ResolvedImage, Resources,
};

/// Search path of a container whose manifest has none.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Open files: what systemd gives services. More than 1024 would break programs on select(2).
const NOFILE_SOFT: u64 = 1024;
/// What a program may raise it to.
const NOFILE_HARD: u64 = 524_288;
const UMASK: u32 = 0o022;

/// `oom_score_adj` by quality of service, as the kubelet sets it.
const OOM_GUARANTEED: i32 = -997;
const OOM_BEST_EFFORT: i32 = 1000;
const OOM_BURSTABLE: std::ops::RangeInclusive<i64> = 3..=999;

/// See the module.
#[derive(Debug)]
pub(super) struct ProcessSettings;

impl Isolator for ProcessSettings {
    fn name(&self) -> &'static str {
        "process"
    }

    fn prepare(&self, context: &Context<'_>, plan: &mut LaunchPlan) -> Result<(), PlanError> {
        let container = context.container;
        let image = context.image()?;
        let mut user = User::default();
        user.set_uid(container.user.unwrap_or(0))
            .set_gid(container.group.unwrap_or(0))
            .set_umask(Some(UMASK))
            .set_additional_gids(
                Some(additional_groups(context.pod)).filter(|all| !all.is_empty()),
            );
        let nofile = PosixRlimitBuilder::default()
            .typ(PosixRlimitType::RlimitNofile)
            .soft(NOFILE_SOFT)
            .hard(NOFILE_HARD)
            .build()
            .expect("every field has a default");
        plan.user = image.map(|image| ImageUser {
            text: image.user.clone(),
            uid: container.user,
            gid: container.group,
            own_groups: context.pod.security.groups_policy == GroupsPolicy::Merge,
            non_root: container.security.non_root,
        });
        if container.security.non_root && runs_as_root(container, image) {
            let image = container.image.as_ref().map(|image| image.source.to_string());
            return Err(PlanError::RunsAsRoot { image: image.unwrap_or_default() });
        }
        plan.process_mut()
            .set_terminal(None)
            .set_user(user)
            .set_args(Some(arguments(container, image)?))
            .set_env(Some(environment(context, image)))
            .set_cwd(working_dir(container, image).into())
            .set_rlimits(Some(vec![nofile]))
            .set_no_new_privileges(Some(!can_gain(container)))
            .set_oom_score_adj(Some(oom_score_adj(context)));
        Ok(())
    }
}

/// Whether set-user-ID programs and the like work.
fn can_gain(container: &ContainerSpec) -> bool {
    container.security.allow_escalation || container.security.privileged
}

/// Groups besides the user's own: who may use volumes is among them.
fn additional_groups(pod: &PodSpec) -> Vec<u32> {
    let mut all = pod.security.groups.clone();
    all.extend(pod.security.fs_group.filter(|group| !all.contains(group)));
    all
}

/// As far as that can be told without the files of the image; the rest is seen during the set-up.
fn runs_as_root(container: &ContainerSpec, image: Option<&ResolvedImage>) -> bool {
    match (container.user, image) {
        (Some(user), _) => user == 0,
        (None, None) => true,
        (None, Some(image)) => {
            let user = image.user.split(':').next().unwrap_or_default();
            matches!(user, "" | "0" | "root")
        }
    }
}

/// The program with its arguments: what is called `ENTRYPOINT` and `CMD` in images is replaced by
/// `command` and `args`; a `command` alone leaves no `CMD` (Kubernetes: "Define a Command and
/// Arguments for a Container").
fn arguments(
    container: &ContainerSpec,
    image: Option<&ResolvedImage>,
) -> Result<Vec<String>, PlanError> {
    let ContainerSpec { command, args, .. } = container;
    let parts: [&[String]; 2] = match image {
        Some(image) if command.is_empty() && args.is_empty() => [&image.entrypoint, &image.cmd],
        Some(image) if command.is_empty() => [&image.entrypoint, args],
        Some(_) | None => [command, args],
    };
    let all = parts.concat();
    match &container.image {
        Some(image) if all.first().is_none_or(String::is_empty) => {
            Err(PlanError::NoProgram { image: image.source.to_string() })
        }
        Some(_) | None => Ok(all),
    }
}

/// Where the program begins.
pub(super) fn working_dir<'a>(
    container: &'a ContainerSpec,
    image: Option<&'a ResolvedImage>,
) -> &'a str {
    let own = container.working_dir.as_ref().map(AbsolutePath::as_str);
    own.unwrap_or_else(|| match image {
        Some(image) => image.working_dir.as_ref().map_or("/", AbsolutePath::as_str),
        None => SANDBOX,
    })
}

/// `NAME=value`, each name once: defaults first, then the image's, then the manifest's; of these
/// the later ones win.
fn environment(context: &Context<'_>, image: Option<&ResolvedImage>) -> Vec<String> {
    let own_name = context.pod.kernel_name();
    let hostname = if context.pod.host.network { &context.facts.hostname } else { &own_name };
    let defaults = [("PATH", PATH), ("HOSTNAME", hostname.as_str())];
    let home = [("HOME", SANDBOX)].into_iter().filter(|_| image.is_none());
    let sandbox = [("MESOS_SANDBOX", SANDBOX)];
    let of_image = image.iter().flat_map(|image| &image.env).filter_map(|var| var.split_once('='));
    let own = context.container.env.iter().map(|var| (var.name.as_str(), var.value.as_str()));
    let mut all: Vec<(&str, &str)> = Vec::new();
    for (name, value) in defaults.into_iter().chain(home).chain(sandbox).chain(of_image).chain(own)
    {
        match all.iter_mut().find(|(known, _)| *known == name) {
            Some(known) => known.1 = value,
            None => all.push((name, value)),
        }
    }
    all.into_iter().map(|(name, value)| format!("{name}={value}")).collect()
}

fn oom_score_adj(context: &Context<'_>) -> i32 {
    if is_guaranteed(context.pod) {
        return OOM_GUARANTEED;
    }
    let all = context.pod.all_containers().map(|container| &container.resources);
    if all.chain([&context.pod.resources]).all(asks_nothing) {
        return OOM_BEST_EFFORT;
    }
    // The more of the machine's memory it asked for, the later it is killed.
    let resources = &context.container.resources;
    let asked = |of: &Resources| of.memory_request_bytes.or(of.memory_limit_bytes);
    // Of what the pod asked for as a whole each has an even share.
    let count = u64::try_from(context.pod.containers.len()).unwrap_or(u64::MAX).max(1);
    let share = || asked(&context.pod.resources).map(|bytes| bytes / count);
    let asked = asked(resources).or_else(share).unwrap_or(0);
    let share = 1000 * u128::from(asked) / u128::from(context.facts.memory_bytes.max(1));
    let score = 1000 - i64::try_from(share).unwrap_or(i64::MAX);
    let score = score.clamp(*OOM_BURSTABLE.start(), *OOM_BURSTABLE.end());
    i32::try_from(score).expect("the range fits")
}

/// Every container, init containers included, has limits for processor and memory, and asks for exactly these.
fn is_guaranteed(pod: &PodSpec) -> bool {
    let is_fixed = |of: &Resources| {
        let fixed = |request: Option<u64>, limit: Option<u64>| {
            limit.is_some_and(|limit| limit > 0 && request.is_none_or(|request| request == limit))
        };
        fixed(of.cpu_request_milli, of.cpu_limit_milli)
            && fixed(of.memory_request_bytes, of.memory_limit_bytes)
    };
    // What the pod asks for as a whole counts alone.
    if pod.resources == Resources::default() {
        pod.all_containers().all(|container| is_fixed(&container.resources))
    } else {
        is_fixed(&pod.resources)
    }
}

fn asks_nothing(of: &Resources) -> bool {
    let all = [of.cpu_request_milli, of.cpu_limit_milli];
    let memory = [of.memory_request_bytes, of.memory_limit_bytes];
    all.into_iter().chain(memory).flatten().all(|amount| amount == 0)
}
