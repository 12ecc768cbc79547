#!/usr/bin/python
"""Ansible module: make a list of directories and files true in one round trip."""

from __future__ import annotations

DOCUMENTATION = r"""
module: tree
short_description: Make a list of directories and files true in one round trip
description:
  - Makes directories, files and symbolic links as listed, with content, owner, group, mode and POSIX ACLs, in one
    execution on the host instead of one for each.
  - Looks at everything first. A wish that cannot be fulfilled ends the run with one sentence before any change.
  - Files are written beside their place and renamed into it with owner and mode set, so that a reader sees the old
    content or the new, never half of it. Content whose bytes are equal is never written again.
  - ACLs are written as extended attributes; the acl package is not needed.
  - A symbolic link at the end of a path is never followed unless O(entries[].follow) says so. One on the way is
    followed only if root, or the user that runs the module, put it there, or if it leads to a directory of its owner.
  - Parents of entries are not created implicitly, and nothing that is not listed is changed. The umask has no effect.
author:
  - The gpufleet.host contributors
version_added: 0.1.0
attributes:
  check_mode:
    support: full
    description: Reports what would change, writes nothing. Owners and groups that do not exist yet are accepted.
  diff_mode:
    support: full
    description: Shows content and attributes; of an entry marked secret it shows only that it changes.
options:
  entries:
    description:
      - What shall be true, in the order in which it is made. Directories that earlier entries make count as parents.
      - One path twice with different wishes is an error; the same wish twice is one.
    type: list
    elements: dict
    required: true
    suboptions:
      path:
        description: Absolute path, without C(..).
        type: str
        required: true
      state:
        description:
          - V(absent) removes a file, a link or an empty directory.
        type: str
        required: true
        choices: [directory, file, link, absent]
      content:
        description:
          - Text of the file, encoded as UTF-8. Left out, a missing file is made empty and an existing one stays.
          - Must be text; a template that yields a mapping has to end in a filter such as C(to_nice_json).
        type: raw
      encoding:
        description:
          - What O(entries[].content) is. With V(base64) the file gets the bytes that the text stands for.
        type: str
        choices: [utf-8, base64]
        default: utf-8
      owner:
        description:
          - Name or number of the owner. Left out, an existing owner stays and new things belong to who runs this.
        type: str
      group:
        description:
          - Name or number of the group. Left out, as for O(entries[].owner), or what the parent's setgid bit gives.
        type: str
      mode:
        description:
          - Quoted octal number. Four digits are exact. Three digits leave setuid, setgid and sticky bits as they are.
          - Left out, an existing mode stays, and new things get 0755 (directories) or 0644 (files).
          - With O(entries[].access_acl) the group digit is the ACL's mask; a mode that says otherwise is an error.
        type: raw
      access_acl:
        description:
          - Access ACL in the form C(u::rwx,g::rwx,g:ml:rwx,m::rwx,o::r-x). A missing mask is computed.
          - An empty text removes it. Left out, an existing one stays, and new things have none, whatever the parent
            hands down. An entry marked secret never keeps one.
        type: str
      default_acl:
        description: The same for what is created inside the directory later.
        type: str
      target:
        description:
          - Where the link points to, as it shall be written into it. Required for V(link).
          - With V(absent), only a link that points there is removed, and anything else is left alone.
        type: str
      validate:
        description:
          - Command that checks new content, as a list; C(%s) stands for a private copy of the file with the same name.
          - Runs before anything is changed, in check mode as well, for at most 60 seconds.
        type: list
        elements: str
      force:
        description:
          - With V(false) the thing is made when it is missing; whatever is there already is left alone.
          - With V(false) V(absent) removes a directory only if nothing is in it, and otherwise leaves it alone.
        type: bool
        default: true
      follow:
        description: Follow a symbolic link at the end of the path and work on what it points to.
        type: bool
        default: false
      recurse:
        description:
          - Let V(absent) remove a directory with all that is in it. A tree with a mount point in it, and a directory
            directly below the root, are refused.
        type: bool
        default: false
      glob:
        description:
          - Let V(absent) remove every match of the pattern that is the last component of the path, for example
            C(/etc/x.d/ours-*.conf), except what other entries name. So a list owns its files without a record of them.
        type: bool
        default: false
      secret:
        description: Keep the content out of the result, the diff, the log and messages.
        type: bool
        default: false
  pending:
    description:
      - Path of a mark that stands from the first change until the handler that the task notifies has done its work and
        removes it. While it stands the module reports a change, so that a run that was cut off between a change and its
        handler is finished by the next one.
      - Directories on the way to it are made with mode 0755.
    type: path
"""

EXAMPLES = r"""
- name: Make a shared directory and its settings true
  gpufleet.host.tree:
    entries:
      - {path: /srv/ml, state: directory, owner: root, group: ml, mode: "0755"}
      - path: /srv/ml/data
        state: directory
        owner: root
        group: ml
        mode: "2775"
        access_acl: u::rwx,g::rwx,g:ml:rwx,m::rwx,o::r-x
        default_acl: u::rwx,g::rwx,g:ml:rwx,m::rwx,o::r-x
      - path: /etc/sudoers.d/ml
        state: file
        content: "{{ lookup('ansible.builtin.template', 'sudoers.j2') }}"
        owner: root
        group: root
        mode: "0440"
        validate: [/usr/sbin/visudo, -cf, "%s"]

- name: Change settings that a service reads when it starts
  gpufleet.host.tree:
    entries:
      - {path: /etc/x.conf, state: file, content: "a = 1\n"}
    pending: /var/lib/gpufleet/pending/x
  notify: Restart x # and the handler's last step removes /var/lib/gpufleet/pending/x

- name: Remove what an earlier release left
  gpufleet.host.tree:
    entries:
      - {path: /etc/profile.d/old.sh, state: absent}
      - {path: /opt/old, state: absent, recurse: true}
      - {path: /etc/x.d/ours-*.conf, state: absent, glob: true}
"""

RETURN = r"""
changes:
  description: What was changed, or would be in check mode.
  returned: always
  type: list
  elements: dict
  contains:
    path:
      description: The path.
      type: str
    change:
      description:
        - One of created, removed, content, target, owner, group, mode, access_acl, default_acl.
        - Or pending, for the mark of a run that was cut off.
      type: str
  sample: [{path: /srv/ml/data, change: created}]
"""

from typing import Any, NoReturn

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.gpufleet.host.plugins.module_utils.tree import Step, Tree, TreeError, diff_of, parse_entry

OPTIONS: dict[str, Any] = {
    "path": {"type": "str", "required": True},
    "state": {"type": "str", "required": True, "choices": ["directory", "file", "link", "absent"]},
    "content": {"type": "raw"},
    "encoding": {"type": "str", "choices": ["utf-8", "base64"], "default": "utf-8"},
    "owner": {"type": "str"},
    "group": {"type": "str"},
    "mode": {"type": "raw"},
    "access_acl": {"type": "str"},
    "default_acl": {"type": "str"},
    "target": {"type": "str"},
    "validate": {"type": "list", "elements": "str"},
    "force": {"type": "bool", "default": True},
    "follow": {"type": "bool", "default": False},
    "recurse": {"type": "bool", "default": False},
    "glob": {"type": "bool", "default": False},
    "secret": {"type": "bool", "default": False, "no_log": False},
}


class TreeModule(AnsibleModule):  # type: ignore[misc]  # Ansible's own classes have no types
    """An AnsibleModule that tells nobody the content of files: not the system's log, not the result's invocation.

    Ansible can hide a parameter or show it; which of these it has to be is decided by each entry's `secret`.
    """

    def _log_invocation(self) -> None:
        entries = self.params.get("entries") or []
        self.log(f"{len(entries)} entries, check mode {self.check_mode}")

    def exit_json(self, **result: Any) -> NoReturn:
        """Return the result, with an invocation that has no content in it."""
        super().exit_json(**result, invocation=self._invocation())
        raise AssertionError("exit_json returned")

    def fail_json(self, msg: str, **result: Any) -> NoReturn:
        """Fail with one sentence, with an invocation that has no content in it."""
        super().fail_json(msg, **result, invocation=self._invocation())
        raise AssertionError("fail_json returned")

    def _invocation(self) -> dict[str, Any]:
        entries = self.params.get("entries")
        shown = entries if isinstance(entries, list) else []
        return {"module_args": {**self.params, "entries": [_without_content(entry) for entry in shown]}}


def _without_content(entry: Any) -> Any:
    if not isinstance(entry, dict):
        return "(not a mapping)"
    return {name: "(not shown)" if name == "content" and value is not None else value for name, value in entry.items()}


def result_of(steps: list[Step], unfinished: str | None = None) -> dict[str, Any]:
    """Say what the steps changed, and whether an earlier run left something to finish."""
    changes = [{"path": step.path, "change": change} for step in steps for change in step.changes]
    if unfinished:
        changes.append({"path": unfinished, "change": "pending"})
    return {"changed": bool(changes), "changes": changes}


def main() -> None:
    """Look, then change, then tell."""
    module = TreeModule(
        argument_spec={
            "entries": {"type": "list", "elements": "dict", "required": True, "options": OPTIONS},
            "pending": {"type": "path"},
        },
        supports_check_mode=True,
    )
    tree = None
    try:
        tree = Tree([parse_entry(raw) for raw in module.params["entries"]], module.check_mode, module.params["pending"])
        if not module.check_mode:
            tree.apply()
    except TreeError as error:
        module.fail_json(str(error), **result_of(tree.done if tree else []))
    result = result_of(tree.steps, tree.pending if tree.unfinished else None)
    if module._diff:
        result["diff"] = [piece for step in tree.steps if step.changes for piece in diff_of(step)]
    module.exit_json(**result)


if __name__ == "__main__":
    main()
