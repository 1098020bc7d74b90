package target

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"mailferry/backend"
	"mailferry/backend/remote"
)

// quota gives the target's root of INBOX the limits that the source has. Users
// may seldom set their own: where the account's login is an administrator's, that
// one is asked, too.
func (s *sideRun) quota(ctx context.Context) error {
	from := s.mainRoot()
	if from == nil {
		return nil
	}
	if !s.c.Has("QUOTA") {
		s.left("", "quota (%s): the target has none (QUOTA)", limitsText(from.Limits))
		return nil
	}
	roots, err := s.c.QuotaOf(ctx, string(backend.Inbox))
	if err != nil {
		return err
	}
	root := backend.QuotaRoot{Root: string(backend.Inbox)}
	if len(roots) > 0 {
		root = roots[0]
	}
	limits, differ := s.limits(from.Limits, root.Limits)
	if !differ {
		return nil
	}
	what := limitsText(limits)
	if s.dry {
		s.changed("", "quota of root %q: %s", root.Root, what)
		return nil
	}
	err = s.c.SetQuota(ctx, root.Root, limits)
	if err != nil && refusal(err) && s.kind == backend.StoreCyrus && s.i.o.DialAdmin != nil {
		err = s.quotaByAdmin(ctx, limits)
	}
	if err != nil && refusal(err) {
		s.left("", "quota (%s): %s", what, plainly(err))
		return nil
	}
	if err != nil {
		return err
	}
	s.changed("", "quota of root %q: %s", root.Root, what)
	for _, l := range from.Limits {
		s.rec.Quotas[resource(l.Resource)] = l.Limit
	}
	return nil
}

// mainRoot is the source's root with limits; others have no counterpart.
func (s *sideRun) mainRoot() (main *backend.QuotaRoot) {
	for k := range s.d.Quotas {
		q := &s.d.Quotas[k]
		switch {
		case len(q.Limits) == 0:
		case main == nil:
			main = q
		default:
			s.left("", "quota root %q (%s): only one root is carried over", q.Root, limitsText(q.Limits))
		}
	}
	return main
}

// resource is one name for what stores call differently.
func resource(name string) string {
	if name == "X-NUM-FOLDERS" {
		return "MAILBOX"
	}
	return name
}

// limits are those that the target's root shall have, beside what it has of its own.
func (s *sideRun) limits(from, to []backend.QuotaLimit) (out []backend.QuotaLimit, differ bool) {
	out = slices.Clone(to)
	for _, l := range from {
		at := slices.IndexFunc(out, func(h backend.QuotaLimit) bool { return resource(h.Resource) == resource(l.Resource) })
		before, carried := s.rec.Quotas[resource(l.Resource)]
		switch {
		case at >= 0 && out[at].Limit == l.Limit:
			continue
		case carried && before == l.Limit && !s.mirror(): // changed at the target since
			continue
		case at >= 0:
			out[at].Limit = l.Limit
		case strings.HasPrefix(l.Resource, "X-") && resource(l.Resource) == l.Resource:
			s.left("", "quota of %s (%d): a resource of the old store alone", l.Resource, l.Limit)
			continue
		default:
			name := resource(l.Resource)
			if name == "MAILBOX" && s.kind == backend.StoreCyrus {
				name = "X-NUM-FOLDERS"
			}
			out = append(out, backend.QuotaLimit{Resource: name, Limit: l.Limit})
		}
		differ = true
	}
	return out, differ
}

func limitsText(limits []backend.QuotaLimit) string {
	var out []string
	for _, l := range limits {
		out = append(out, fmt.Sprintf("%s %d", l.Resource, l.Limit))
	}
	return strings.Join(out, ", ")
}

// quotaByAdmin asks as the administrator himself, to whom Cyrus shows the root by
// the user's name.
func (s *sideRun) quotaByAdmin(ctx context.Context, limits []backend.QuotaLimit) error {
	c, err := s.i.o.DialAdmin(ctx)
	if err != nil {
		return &decided{fmt.Errorf("login as the administrator: %w", err)}
	}
	defer func() { _ = c.Logout() }()
	return s.adminQuota(ctx, c, limits)
}

func (s *sideRun) adminQuota(ctx context.Context, c *remote.Client, limits []backend.QuotaLimit) error {
	sep := personal(s.i.list).Delimiter
	local, domain, has := strings.Cut(s.ids.to, "@")
	if sep == "." {
		local = strings.ReplaceAll(local, ".", "^")
	}
	root := "user" + sep + local
	if has {
		root += "@" + domain
	}
	err := c.SetQuota(ctx, root, limits)
	if err != nil && !refusal(err) {
		return &decided{fmt.Errorf("quota as the administrator: %w", err)} // the user's connection is well
	}
	return err
}
