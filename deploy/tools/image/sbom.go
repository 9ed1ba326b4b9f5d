package image

import (
	"bytes"
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/hex"
	"fmt"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/spdx/tools-golang/json"
	"github.com/spdx/tools-golang/spdx"
	"github.com/spdx/tools-golang/spdx/v2/common"
	"github.com/spdx/tools-golang/spdxlib"
)

const notSaid = "NOASSERTION"

// sbom says what a binary is made of, in SPDX 2.3 as JSON: the modules that the Go linker wrote into
// it and the Go release, which is the standard library's. Their licences are not looked for.
func (cfg *Config) sbom(binary []byte) ([]byte, error) {
	info, err := buildinfo.Read(bytes.NewReader(binary))
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(binary)
	id := hex.EncodeToString(sum[:])
	weir := module(debug.Module{Path: info.Main.Path, Version: cfg.Version})
	weir.PackageLicenseDeclared, weir.PackageLicenseConcluded = "Apache-2.0", "Apache-2.0"
	weir.PackageChecksums = []common.Checksum{{Algorithm: common.SHA256, Value: id}}
	weir.PackageFileName = binaryPath
	weir.PrimaryPackagePurpose = "APPLICATION"
	doc := &spdx.Document{
		SPDXVersion: spdx.Version, DataLicense: spdx.DataLicense, SPDXIdentifier: "DOCUMENT",
		DocumentName:      "weir " + cfg.Version,
		DocumentNamespace: "https://github.com/weir-project/weir/sbom/" + id, // a name, of this binary alone
		CreationInfo: &spdx.CreationInfo{
			Creators: []common.Creator{{CreatorType: "Tool", Creator: "weir-image"}},
			Created:  cfg.Created.Format(time.RFC3339),
		},
		Packages:      []*spdx.Package{weir},
		Relationships: []*spdx.Relationship{relation("DOCUMENT", "DESCRIBES", weir.PackageSPDXIdentifier)},
	}
	deps := []debug.Module{{Path: "stdlib", Version: strings.TrimPrefix(info.GoVersion, "go")}}
	for _, m := range info.Deps {
		if m.Replace != nil {
			m = m.Replace
		}
		deps = append(deps, *m)
	}
	slices.SortFunc(deps, func(a, b debug.Module) int { return strings.Compare(a.Path, b.Path) })
	for _, m := range deps {
		p := module(m)
		doc.Packages = append(doc.Packages, p)
		doc.Relationships = append(doc.Relationships, relation(weir.PackageSPDXIdentifier, "DEPENDS_ON", p.PackageSPDXIdentifier))
	}
	if err := spdxlib.ValidateDocument(doc); err != nil {
		return nil, err
	}
	var b bytes.Buffer
	err = json.Write(doc, &b, json.Indent("  "))
	return b.Bytes(), err
}

// module describes a Go module.
func module(m debug.Module) *spdx.Package {
	p := &spdx.Package{
		PackageName: m.Path, PackageVersion: m.Version, PackageSPDXIdentifier: elementID(m.Path),
		PackageDownloadLocation: notSaid, PackageLicenseDeclared: notSaid, PackageLicenseConcluded: notSaid, PackageCopyrightText: notSaid,
		PackageExternalReferences: []*spdx.PackageExternalReference{{
			Category: common.CategoryPackageManager, RefType: common.TypePackageManagerPURL,
			Locator: fmt.Sprintf("pkg:golang/%s@%s", strings.ToLower(m.Path), m.Version)}},
	}
	if m.Sum != "" {
		p.PackageComment = "go.sum: " + m.Sum
	}
	return p
}

// elementID makes an identifier, of letters, digits, dots and hyphens, of a module's path.
func elementID(path string) common.ElementID {
	clean := func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', r == '.':
			return r
		}
		return '-'
	}
	return common.ElementID("Package-" + strings.Map(clean, path))
}

func relation(a common.ElementID, what string, b common.ElementID) *spdx.Relationship {
	return &spdx.Relationship{RefA: common.MakeDocElementID("", string(a)), Relationship: what, RefB: common.MakeDocElementID("", string(b))}
}
