// Command token prints a token for trying out a gateway that asks for one by
// AUTH_HMAC_SECRET_FILE. Real ones come from what logs people in.
package main

import (
	"bytes"
	"fmt"
	"os"
	"time"

	"github.com/alecthomas/kong"
	"github.com/golang-jwt/jwt/v5"
)

type config struct {
	SecretFile []byte        `required:"" type:"filecontent" placeholder:"FILE" help:"What the gateway has as AUTH_HMAC_SECRET_FILE."`
	Sub        string        `required:"" help:"Member that the token is for."`
	Audience   string        `help:"What the gateway has as AUTH_AUDIENCE."`
	Issuer     string        `help:"What the gateway has as AUTH_ISSUER."`
	Valid      time.Duration `default:"1h" help:"How long the token is valid."`
}

func main() {
	var cfg config
	kong.Parse(&cfg, kong.Description("Prints a token for trying out a gateway that asks for one."))
	claims := jwt.RegisteredClaims{Subject: cfg.Sub, Issuer: cfg.Issuer, ExpiresAt: jwt.NewNumericDate(time.Now().Add(cfg.Valid))}
	if cfg.Audience != "" {
		claims.Audience = jwt.ClaimStrings{cfg.Audience}
	}
	token, err := jwt.NewWithClaims(jwt.SigningMethodHS256, claims).SignedString(bytes.TrimRight(cfg.SecretFile, "\r\n"))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println(token)
}
