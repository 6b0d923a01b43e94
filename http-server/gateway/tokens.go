package gateway

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/cloudwego/hertz/pkg/app"
	"github.com/golang-jwt/jwt/v5"

	"im/internal/member"
	"im/internal/settings"
)

// Auth tells who calls, by the JSON Web Token (RFC 7519) that a request has as its
// bearer token (RFC 6750). A nil Auth takes everybody for anybody.
type Auth struct {
	parser *jwt.Parser
	key    any
	leeway time.Duration
}

// NewAuth accepts the tokens that are signed with the secret, by HMAC, or with the private
// half of the public key, which is in PEM; and that are for the audience and of the
// issuer, where these are not empty. The clock of who signs a token may be ahead of this
// machine's, or behind it, by up to leeway. With neither key, both of which nil means, it is nil. The error
// names the setting that is wrong.
func NewAuth(secret, publicKey []byte, audience, issuer string, leeway time.Duration) (*Auth, error) {
	var key any
	var alg string
	var err error
	switch {
	case secret != nil && publicKey != nil:
		return nil, errors.New("AUTH_PUBLIC_KEY_FILE: excludes AUTH_HMAC_SECRET_FILE")
	case secret != nil:
		if key, alg, err = hmacKey(secret); err != nil {
			return nil, fmt.Errorf("AUTH_HMAC_SECRET_FILE: %w", err)
		}
	case publicKey != nil:
		if key, alg, err = verifyingKey(publicKey); err != nil {
			return nil, fmt.Errorf("AUTH_PUBLIC_KEY_FILE: %w", err)
		}
	case audience != "":
		return nil, errors.New("AUTH_AUDIENCE: needs a key")
	case issuer != "":
		return nil, errors.New("AUTH_ISSUER: needs a key")
	default:
		return nil, nil
	}
	options := []jwt.ParserOption{
		jwt.WithValidMethods([]string{alg}), jwt.WithExpirationRequired(), jwt.WithStrictDecoding(), jwt.WithIssuer(issuer), jwt.WithLeeway(leeway),
	}
	if audience != "" {
		options = append(options, jwt.WithAudience(audience))
	}
	return &Auth{jwt.NewParser(options...), key, leeway}, nil
}

// hmacKey is the secret that a file holds.
func hmacKey(file []byte) (key any, alg string, err error) {
	secret := []byte(settings.Secret(file))
	if len(secret) < 32 { // RFC 7518, 3.2
		return nil, "", fmt.Errorf("has %d bytes, at least 32 are needed", len(secret))
	}
	return secret, jwt.SigningMethodHS256.Alg(), nil
}

// verifyingKey reads a public key, and returns the one algorithm that it is for (RFC 7518,
// 3.1; RFC 8037, 3.1).
func verifyingKey(file []byte) (key any, alg string, err error) {
	block, _ := pem.Decode(file)
	if block == nil || block.Type != "PUBLIC KEY" {
		return nil, "", errors.New(`is no PEM file with a "PUBLIC KEY"`)
	}
	if key, err = x509.ParsePKIXPublicKey(block.Bytes); err != nil {
		return nil, "", err
	}
	switch k := key.(type) {
	case *rsa.PublicKey:
		if k.N.BitLen() < 2048 { // RFC 7518, 3.3
			return nil, "", fmt.Errorf("has %d bits, at least 2048 are needed", k.N.BitLen())
		}
		return key, jwt.SigningMethodRS256.Alg(), nil
	case *ecdsa.PublicKey:
		for _, method := range []*jwt.SigningMethodECDSA{jwt.SigningMethodES256, jwt.SigningMethodES384, jwt.SigningMethodES512} {
			if k.Curve.Params().BitSize == method.CurveBits {
				return key, method.Alg(), nil
			}
		}
	case ed25519.PublicKey:
		return key, jwt.SigningMethodEdDSA.Alg(), nil
	}
	return nil, "", errors.New("is neither RSA, ECDSA with P-256, P-384 or P-521, nor Ed25519")
}

// caller is who makes a request.
type caller struct {
	name   string
	anyone bool      // nobody asks who it is
	until  time.Time // when the token ends, leeway included; zero is never
}

// caller reads the token of a request. The error is a problem, and then the answer says
// how to prove who one is.
func (a *Auth) caller(c *app.RequestContext) (caller, error) {
	if a == nil {
		return caller{anyone: true}, nil
	}
	given := c.Request.Header.PeekAll("Authorization")
	if len(given) == 0 {
		c.Header("WWW-Authenticate", "Bearer")
		return caller{}, newProblem(http.StatusUnauthorized, "a token is required, as Authorization: Bearer", nil)
	}
	var claims jwt.RegisteredClaims
	scheme, token, _ := strings.Cut(string(given[0]), " ")
	err := errNoBearer
	if len(given) == 1 && strings.EqualFold(scheme, "Bearer") {
		_, err = a.parser.ParseWithClaims(token, &claims, func(*jwt.Token) (any, error) { return a.key, nil })
	}
	if err == nil && claims.Subject == "" {
		err = errNobody
	}
	if err != nil {
		c.Header("WWW-Authenticate", `Bearer error="invalid_token"`)
		return caller{}, newProblem(http.StatusUnauthorized, tokenFault(err), err)
	}
	return caller{name: claims.Subject, until: claims.ExpiresAt.Add(a.leeway)}, nil
}

var (
	errNoBearer = errors.New("no bearer token, or several")
	errNobody   = errors.New("the token lacks sub")
)

// tokenFault says what is wrong with a token, to who sent it.
func tokenFault(err error) string {
	for fault, words := range map[error]string{
		errNoBearer:                      "Authorization must be given once, as Bearer and a token",
		errNobody:                        "the token lacks sub",
		jwt.ErrTokenExpired:              "the token has expired",
		jwt.ErrTokenNotValidYet:          "the token is not valid yet",
		jwt.ErrTokenRequiredClaimMissing: "the token lacks a claim: exp, and aud and iss where these are asked for",
		jwt.ErrTokenInvalidAudience:      "the token is for another audience",
		jwt.ErrTokenInvalidIssuer:        "the token is of another issuer",
	} {
		if errors.Is(err, fault) {
			return words
		}
	}
	return "the token is not valid"
}

// mayBe returns nil if the caller is the member that a field names, else a problem.
func (c caller) mayBe(field, name string) error {
	if c.anyone || c.is(name) {
		return nil
	}
	return newProblem(http.StatusForbidden, field+": is not whom the token names", nil)
}

// mayPull returns nil if the caller is a member of chat, else a problem.
func (c caller) mayPull(chat string) error {
	first, second, _ := strings.Cut(chat, ":")
	if c.anyone || c.is(first) || c.is(second) {
		return nil
	}
	return newProblem(http.StatusForbidden, "chat: whom the token names is no member of it", nil)
}

// is compares as the members of chats are, which strings.EqualFold does not.
func (c caller) is(name string) bool { return member.Fold(c.name) == member.Fold(name) }
