"""Plans and templates for clusters: Ray jobs, KubeRay, `ray up`."""
